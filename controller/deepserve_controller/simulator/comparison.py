"""Comparison: one scenario under the autoscaler in use and under the baseline, in a table."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass

from deepserve_controller.build import AUTOSCALER
from deepserve_controller.core.scaling_views import Autoscaler
from deepserve_controller.policies.autoscaler import FitDemand
from deepserve_controller.simulator.report import markdown_table, percentile
from deepserve_controller.simulator.scenarios import run_by_name

POLICIES: Mapping[str, Autoscaler] = {"baseline": FitDemand(), "reactive": AUTOSCALER}


@dataclass(frozen=True, slots=True)
class Row:
    """What one policy made of a scenario. Waiting is from arrival to first assignment; milliseconds."""

    policy: str
    requests: int
    starts: int
    """Pods started, the warm pool's among them."""
    peak_pods: int
    pod_s: float
    wait_p50_ms: float
    wait_p99_ms: float
    wait_mean_ms: float
    digest: str
    """Of the whole history: the same seed gives the same one."""


def compare(name: str, seed: int, policies: Mapping[str, Autoscaler] = POLICIES) -> list[Row]:
    """The same arrivals for each. AssertionError where an invariant breaks in a run."""
    return [row_of(policy, name, seed, autoscaler) for policy, autoscaler in policies.items()]


def row_of(policy: str, name: str, seed: int, autoscaler: Autoscaler) -> Row:
    scenario, run = run_by_name(name, seed, autoscaler)
    record = run.record
    waits_s = record.waits_s
    return Row(
        policy=policy,
        requests=len(record.arrived_s),
        starts=record.num_started,
        peak_pods=record.peak_pods,
        pod_s=round(record.pod_seconds(scenario.end_s), 1),
        wait_p50_ms=round(percentile(waits_s, 50) * 1e3, 1),
        wait_p99_ms=round(percentile(waits_s, 99) * 1e3, 1),
        wait_mean_ms=round(sum(waits_s) / len(waits_s) * 1e3, 2) if waits_s else 0.0,
        digest=run.simulation.digest,
    )


def table(rows: list[Row]) -> str:
    head = ("policy", "requests", "starts", "peak pods", "pod s", "wait p50 ms", "p99 ms", "mean ms")
    return markdown_table(head, [[str(value) for value in list(asdict(row).values())[:-1]] for row in rows])
