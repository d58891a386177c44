"""How many requests of a model may be at its pods; the others wait where keys take turns."""

from __future__ import annotations

SLOTS_OF_UNKNOWN_POD = 32
"""While no pod has said how many it has."""
HEADROOM = 4
"""Beside the slots that there are: enough for the autoscaler to see that there is more to do."""


def admission_window(slots_per_pod: int, ready_slots: int, starting_pods: int, max_pods: int) -> int:
    """While pods start, as many as all pods together could take, so that each finds its requests waiting.

    Otherwise hardly more than there are slots: what waits at the pods waits in the order of its arrival, and whoever
    comes next would wait behind all that a busy key has sent before.
    """
    most = max(1, max_pods) * (slots_per_pod if ready_slots else max(slots_per_pod, SLOTS_OF_UNKNOWN_POD))
    if starting_pods or not ready_slots:
        return most
    return min(most, ready_slots + HEADROOM)
