"""How many requests of a model may be at its pods; the others wait where keys take turns."""

from __future__ import annotations

from deepserve_controller.core.admission_queue import Window

SLOTS_OF_UNKNOWN_POD = 32
"""While no pod has said how many it has."""
HEADROOM = 4
"""Beside what the pods are aimed at: enough for the autoscaler to see that there is more to do."""


def admission_window(target: int, slots: int, ready_pods: int, starting_pods: int, max_pods: int) -> Window:
    """`target`: tasks of one pod that scaling aims at, of an engine those that run at once; `slots`: that it may have.

    While pods start, as many as all pods together could take, so that each finds its requests waiting. Otherwise hardly
    more than run at once: whoever comes next would wait behind all that a busy key has sent before. What pods can hold
    beyond that is for keys that are below their share.
    """
    pods = max(1, max_pods)
    if not ready_pods:
        target = slots = max(target, slots, SLOTS_OF_UNKNOWN_POD)
    if starting_pods or not ready_pods:
        return Window(pods * target, pods * slots)
    wide = min(pods * target, ready_pods * target + HEADROOM)
    return Window(wide, max(wide, ready_pods * slots))
