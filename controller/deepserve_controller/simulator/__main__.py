"""`python -m deepserve_controller.simulator burst --seed 1` prints the report of a scenario."""

from __future__ import annotations

import argparse

from deepserve_controller.simulator.report import report
from deepserve_controller.simulator.scenarios import SCENARIOS, run_by_name


def main() -> None:
    parser = argparse.ArgumentParser(prog="deepserve_controller.simulator", description=__doc__)
    parser.add_argument("scenario", choices=sorted(SCENARIOS))
    parser.add_argument("--seed", type=int, default=1)
    arguments = parser.parse_args()
    scenario, run = run_by_name(arguments.scenario, arguments.seed)
    title = f"{scenario.title} (seed {arguments.seed})"
    simulation = run.simulation
    print(report(title, run.record, simulation.now_s, simulation.num_events, simulation.digest))


if __name__ == "__main__":
    main()
