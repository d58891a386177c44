"""Pods of a function that are too many: which they are, and when to look for them."""

from __future__ import annotations

from deepserve_controller.core.function_pool import FunctionPool
from deepserve_controller.core.pod_record import PodRecord

REVIEW_S = 1.0
"""Between two looks at pods that are too many and yet kept."""


def review_at_s(pool: FunctionPool, now_s: float, is_again: bool = False) -> float | None:
    """When a pod may be one too many; None where only an event can change that.

    `is_again`: a look was taken just now. While calls come, what keeps pods fades with time, so look again soon;
    when nobody calls, nothing happens before the last pod's window ends.
    """
    if len(pool.pods) <= pool.min_pods:
        return None
    idle_s = [pod.idle_since_s for pod in pool.pods.values() if pod.state == "bound" and not pod.is_busy]
    if not pool.num_busy and not pool.queued:
        return max(now_s, max(idle_s) + pool.window_s) if idle_s else None
    at_s = min(idle_s) + pool.window_s if idle_s else None
    if pool.slots > 1 and len(pool.pods) > 1:
        at_s = now_s if at_s is None else min(at_s, now_s)
    if at_s is None:
        return None
    return max(at_s, now_s + (REVIEW_S if is_again or pool.slots > 1 else 0.0))


def superfluous_pods(pool: FunctionPool, now_s: float) -> list[PodRecord]:
    """Pods to give up, the longest idle first. Of pods with several slots also busy ones, the newest first."""
    num_excess = pool.num_pods - pool.wanted.pods
    if num_excess <= 0:
        return []
    bound = [pod for pod in pool.pods.values() if pod.state == "bound" and pod.pod_id not in pool.leaving]
    found = [pod for pod in bound if not pod.is_busy and not pool.is_within_window(pod, now_s)]
    found.sort(key=lambda pod: pod.idle_since_s)
    if pool.slots > 1 and len(found) < num_excess:
        others = [pod for pod in reversed(bound) if pod not in found]
        found += sorted(others, key=lambda pod: pod.is_busy)
    return found[:num_excess]


def excess_pods(pool: FunctionPool) -> list[PodRecord]:
    """Pods over `max_pods`: those not bound yet first, then idle, then busy ones; newest first."""
    num_excess = max(0, pool.num_pods - pool.max_pods)
    newest_first = list(reversed(pool.pods.values()))
    by_value = sorted(newest_first, key=lambda pod: 0 if pod.state != "bound" else 2 if pod.is_busy else 1)
    return by_value[:num_excess]
