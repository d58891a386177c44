"""Routing: which of a function's bound pods takes the next task."""

from __future__ import annotations

from collections.abc import Iterable

from deepserve_controller.core.routing_views import ExecutorLoad, Routed


def least_loaded(executors: Iterable[ExecutorLoad]) -> Routed | None:
    """The pod with the fewest tasks that still has a free slot; the first in id order of equals.

    The load criterion alone of DeepServe's Algorithm 1 (2.11). Always preferring low ids lets the pods with high ids
    fall idle, which is what scaling down needs.
    """
    best: ExecutorLoad | None = None
    best_load = 0
    for executor in executors:
        load = executor.load
        if load >= executor.slots or (best is not None and load >= best_load):
            continue
        best, best_load = executor, load
        if load == 0:
            break
    if best is None:
        return None
    return Routed(best.pod_id, f"least loaded: {best_load} of {best.slots} slots")
