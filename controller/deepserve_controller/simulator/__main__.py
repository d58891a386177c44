"""`python -m deepserve_controller.simulator bursts --seed 1` compares scaling policies in a scenario.

`--report` prints more of what happened under the policy in use; `--list` the scenarios.
"""

from __future__ import annotations

import argparse
import json
from dataclasses import asdict

from deepserve_controller.policies.autoscaler import Reactive
from deepserve_controller.simulator.comparison import POLICIES, compare, table
from deepserve_controller.simulator.report import report
from deepserve_controller.simulator.scenarios import SCENARIOS, run_by_name


def main() -> None:
    parser = argparse.ArgumentParser(prog="deepserve_controller.simulator", description=__doc__)
    parser.add_argument("scenario", nargs="?", choices=sorted(SCENARIOS), default="bursts")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--stable-window", type=float, action="append", help="also with this one, in seconds")
    parser.add_argument("--json", action="store_true")
    parser.add_argument("--report", action="store_true")
    parser.add_argument("--list", action="store_true")
    arguments = parser.parse_args()
    if arguments.list:
        about = {name: " ".join((build.__doc__ or "").split()) for name, build in sorted(SCENARIOS.items())}
        print(json.dumps(about) if arguments.json else "\n".join(f"{name:12} {text}" for name, text in about.items()))
    elif arguments.report:
        scenario, run = run_by_name(arguments.scenario, arguments.seed)
        title = f"{scenario.title} (seed {arguments.seed})"
        simulation = run.simulation
        print(report(title, run.record, simulation.now_s, simulation.num_events, simulation.digest))
    else:
        windows_s = arguments.stable_window or []
        others = {f"stable window {window_s:g} s": Reactive(stable_window_s=window_s) for window_s in windows_s}
        rows = compare(arguments.scenario, arguments.seed, {**POLICIES, **others})
        document = {"scenario": arguments.scenario, "seed": arguments.seed, "policies": [asdict(row) for row in rows]}
        print(json.dumps(document) if arguments.json else table(rows))


if __name__ == "__main__":
    main()
