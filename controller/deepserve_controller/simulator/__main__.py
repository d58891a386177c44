"""`python -m deepserve_controller.simulator bursts --seed 1` compares scaling policies in a scenario.

Scenarios `models-...` replay traces of hosted models and compare scaling and routing with other systems' rules.
`--report` prints more of what happened under the policy in use; `--list` the scenarios.
"""

from __future__ import annotations

import argparse
import json
from dataclasses import asdict
from typing import Any

from deepserve_controller.policies.autoscaler import Reactive
from deepserve_controller.simulator.comparison import POLICIES, compare, table
from deepserve_controller.simulator.costs import SAMPLES, read_cost
from deepserve_controller.simulator.model_scenarios import MODEL_SCENARIOS, compare_models, model_table
from deepserve_controller.simulator.moves import compare_moves, moves_table
from deepserve_controller.simulator.placement import compare_placement, placement_table
from deepserve_controller.simulator.report import report
from deepserve_controller.simulator.scenarios import SCENARIOS, run_by_name
from deepserve_controller.simulator.tenants import compare_tenants, tenants_table
from flowserve.cost_model import CostModel
from flowserve.errors import StepLogError

PLACEMENT, TENANTS, MOVES = "models-placement", "models-tenants", "models-moves"


Told = tuple[dict[str, Any], str]
"""What a run is told as: JSON, or a table."""


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
    if arguments.report and arguments.scenario in SCENARIOS and not arguments.list:
        return print(_report(arguments.scenario, arguments.seed))
    document, text = _scenarios() if arguments.list else _compared(arguments, cost)
    print(json.dumps(document) if arguments.json else text)


def _scenarios() -> Told:
    others = {PLACEMENT: compare_placement, TENANTS: compare_tenants, MOVES: compare_moves}
    builders = sorted({**SCENARIOS, **MODEL_SCENARIOS, **others}.items())
    about = {name: " ".join((build.__doc__ or "").split()) for name, build in builders}
    return about, "\n".join(f"{name:20} {text}" for name, text in about.items())


def _report(scenario_name: str, seed: int) -> str:
    """Of one run, with DeepServe's own policy."""
    scenario, run = run_by_name(scenario_name, seed)
    simulation = run.simulation
    title = f"{scenario.title} (seed {seed})"
    return report(title, run.record, simulation.now_s, simulation.num_events, simulation.digest)


def _compared(arguments: argparse.Namespace, cost: CostModel) -> Told:
    """The scenario under all policies that there are for it."""
    scenario, seed = arguments.scenario, arguments.seed
    document: dict[str, Any] = {"scenario": scenario, "seed": seed}
    if scenario == PLACEMENT:
        placed = compare_placement(seed)
        return {**document, "rules": [asdict(row) for row in placed]}, placement_table(placed)
    if scenario == TENANTS:
        shared = compare_tenants(seed)
        return {**document, "rules": [asdict(row) for row in shared]}, tenants_table(shared)
    if scenario == MOVES:
        moved = compare_moves(seed, cost)
        return {**document, "rules": [asdict(row) for row in moved]}, moves_table(moved)
    if scenario in MODEL_SCENARIOS:
        rows = compare_models(scenario, seed, cost=cost)
        document |= {"cost": arguments.cost, "hardware": cost.hardware}
        return {**document, "policies": [asdict(row) for row in rows]}, model_table(rows)
    windows_s = arguments.stable_window or []
    windows = {f"stable window {window_s:g} s": Reactive(stable_window_s=window_s) for window_s in windows_s}
    compared = compare(scenario, seed, {**POLICIES, **windows})
    return {**document, "policies": [asdict(row) for row in compared]}, table(compared)


if __name__ == "__main__":
    main()
