"""`python -m deepserve_controller.simulator bursts --seed 1` compares scaling policies in a scenario.

Scenarios `models-...` replay traces of hosted models and compare scaling and routing with other systems' rules.
`--report` prints more of what happened under the policy in use; `--list` the scenarios.
"""

from __future__ import annotations

import argparse
import json
from dataclasses import asdict

from deepserve_controller.policies.autoscaler import Reactive
from deepserve_controller.simulator.comparison import POLICIES, compare, table
from deepserve_controller.simulator.costs import SAMPLES, read_cost
from deepserve_controller.simulator.model_scenarios import MODEL_SCENARIOS, compare_models, model_table
from deepserve_controller.simulator.moves import compare_moves, moves_table
from deepserve_controller.simulator.placement import compare_placement, placement_table
from deepserve_controller.simulator.report import report
from deepserve_controller.simulator.scenarios import SCENARIOS, run_by_name
from deepserve_controller.simulator.tenants import compare_tenants, tenants_table
from flowserve.errors import StepLogError

PLACEMENT, TENANTS, MOVES = "models-placement", "models-tenants", "models-moves"


def main() -> None:
    parser = argparse.ArgumentParser(prog="deepserve_controller.simulator", description=__doc__)
    names = sorted([*SCENARIOS, *MODEL_SCENARIOS, PLACEMENT, TENANTS, MOVES])
    parser.add_argument("scenario", nargs="?", choices=names, default="bursts")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--stable-window", type=float, action="append", help="also with this one, in seconds")
    parser.add_argument("--cost", default="assumed", help=f"of engines: assumed, {', '.join(SAMPLES)}, or a file")
    parser.add_argument("--json", action="store_true")
    parser.add_argument("--report", action="store_true")
    parser.add_argument("--list", action="store_true")
    arguments = parser.parse_args()
    try:
        cost = read_cost(arguments.cost)
    except StepLogError as error:
        parser.error(str(error))
    if arguments.list:
        others = {PLACEMENT: compare_placement, TENANTS: compare_tenants, MOVES: compare_moves}
        builders = sorted({**SCENARIOS, **MODEL_SCENARIOS, **others}.items())
        about = {name: " ".join((build.__doc__ or "").split()) for name, build in builders}
        print(json.dumps(about) if arguments.json else "\n".join(f"{name:20} {text}" for name, text in about.items()))
    elif arguments.scenario == PLACEMENT:
        placed = compare_placement(arguments.seed)
        document = {"scenario": PLACEMENT, "seed": arguments.seed, "rules": [asdict(row) for row in placed]}
        print(json.dumps(document) if arguments.json else placement_table(placed))
    elif arguments.scenario == TENANTS:
        shared = compare_tenants(arguments.seed)
        document = {"scenario": TENANTS, "seed": arguments.seed, "rules": [asdict(row) for row in shared]}
        print(json.dumps(document) if arguments.json else tenants_table(shared))
    elif arguments.scenario == MOVES:
        moved = compare_moves(arguments.seed, cost)
        document = {"scenario": MOVES, "seed": arguments.seed, "rules": [asdict(row) for row in moved]}
        print(json.dumps(document) if arguments.json else moves_table(moved))
    elif arguments.scenario in MODEL_SCENARIOS:
        rows = compare_models(arguments.scenario, arguments.seed, cost=cost)
        document = {
            "scenario": arguments.scenario, "seed": arguments.seed, "cost": arguments.cost,
            "hardware": cost.hardware, "policies": [asdict(row) for row in rows],
        }  # fmt: skip
        print(json.dumps(document) if arguments.json else model_table(rows))
    elif arguments.report:
        scenario, run = run_by_name(arguments.scenario, arguments.seed)
        title = f"{scenario.title} (seed {arguments.seed})"
        simulation = run.simulation
        print(report(title, run.record, simulation.now_s, simulation.num_events, simulation.digest))
    else:
        windows_s = arguments.stable_window or []
        windows = {f"stable window {window_s:g} s": Reactive(stable_window_s=window_s) for window_s in windows_s}
        compared = compare(arguments.scenario, arguments.seed, {**POLICIES, **windows})
        document = {
            "scenario": arguments.scenario, "seed": arguments.seed, "policies": [asdict(row) for row in compared]
        }  # fmt: skip
        print(json.dumps(document) if arguments.json else table(compared))


if __name__ == "__main__":
    main()
