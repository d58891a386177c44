"""How many requests of a model may be at its pods; the others wait where keys take turns."""

from __future__ import annotations

from deepserve_controller.core.admission_queue import Window

SLOTS_OF_UNKNOWN_POD = 32
"""While no pod has said how many it has."""
HEADROOM = 4
"""Beside the slots that there are: enough for the autoscaler to see that there is more to do."""


def admission_window(slots: int, ready_pods: int, starting_pods: int, max_pods: int) -> Window:
    """`slots`: of one pod.

    While pods start, as many as all pods together could take, so that each finds its requests waiting. Otherwise hardly
    more than there are slots: whoever comes next would wait behind all that a busy key has sent before. Beside them as
    many again for keys that are below their share: together they are never more than there are seats.
    """
    if not ready_pods:
        slots = max(slots, SLOTS_OF_UNKNOWN_POD)
    wide = max(1, max_pods) * slots
    if ready_pods and not starting_pods:
        wide = min(wide, ready_pods * slots + HEADROOM)
    return Window(wide, wide + ready_pods * slots)
