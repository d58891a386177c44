"""Autoscaler: how many pods a function should have (DeepServe 2.15 gives the part, not the rule)."""

from __future__ import annotations

from deepserve_controller.core.views import FunctionLoad, PodsWanted


def fit_demand(load: FunctionLoad) -> PodsWanted:
    """Enough slots for every queued and running task, a buffer beside them while there are any, within the bounds.

    The caller counts starting pods as pods, so demand is not answered twice, and scales down only after its window.
    """
    tasks = load.queued + load.running
    needed = -(-tasks // load.slots)
    wanted = needed + (load.buffer_pods if tasks else 0)
    reason = f"{load.queued} queued + {load.running} running tasks / {load.slots} slots = {needed} pods"
    if wanted > needed:
        reason += f" + {load.buffer_pods} buffer"
    if wanted > load.max_pods:
        return PodsWanted(load.max_pods, f"{reason}, at most {load.max_pods}")
    if wanted < load.min_pods:
        return PodsWanted(min(load.min_pods, load.max_pods), f"{reason}, at least {load.min_pods}")
    return PodsWanted(wanted, reason)
