"""Workload: when requests arrive."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from random import Random

from deepserve.protocol.messages import RequestKind
from deepserve_controller.core.events import MapInputsArrived, MapInputsEnded, RequestArrived
from deepserve_controller.simulator.engine import Occurrence


def burst(
    function_id: str, num_requests: int, at_s: float, prefix: str = "rq", method: str = ""
) -> Iterator[Occurrence]:
    """All at the same instant."""
    for number in range(num_requests):
        yield Occurrence(at_s, RequestArrived(f"{prefix}-{number}", "client-1", function_id, method=method))


def poisson(
    function_id: str,
    per_s: float,
    start_s: float,
    end_s: float,
    random: Random,
    prefix: str = "rq",
    kind: RequestKind = "call",
) -> Iterator[Occurrence]:
    """Independent arrivals, `per_s` a second on average."""
    at_s, number = start_s + random.expovariate(per_s), 0
    while at_s < end_s:
        yield Occurrence(at_s, RequestArrived(f"{prefix}-{number}", "client-1", function_id, kind))
        at_s += random.expovariate(per_s)
        number += 1


def varying(
    function_id: str,
    per_s: Callable[[float], float],
    most_per_s: float,
    start_s: float,
    end_s: float,
    random: Random,
    prefix: str = "rq",
) -> Iterator[Occurrence]:
    """Independent arrivals at a rate that changes with time since `start_s`, never above `most_per_s` (thinning)."""
    at_s, number = start_s, 0
    while (at_s := at_s + random.expovariate(most_per_s)) < end_s:
        if random.random() * most_per_s < per_s(at_s - start_s):
            yield Occurrence(at_s, RequestArrived(f"{prefix}-{number}", "client-1", function_id))
            number += 1


def one_map(function_id: str, num_inputs: int, at_s: float, request_id: str = "map-0") -> Iterator[Occurrence]:
    """One map whose inputs are all there."""
    yield Occurrence(at_s, RequestArrived(request_id, "client-1", function_id, "map"))
    for first_index in range(0, num_inputs, 128):
        count = min(128, num_inputs - first_index)
        yield Occurrence(at_s, MapInputsArrived(request_id, first_index, [1] * count, bytes(count)))
    yield Occurrence(at_s, MapInputsEnded(request_id, num_inputs))
