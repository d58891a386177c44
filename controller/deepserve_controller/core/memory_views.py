"""What the choice of who gives memory that others need may see, and what it answers; read-only."""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

from deepserve.protocol.specs import ExecutorKind


class IdlePod(NamedTuple):
    """A bound pod without a task, whose memory somebody needs."""

    pod_id: str
    kind: ExecutorKind
    is_asleep: bool
    idle_s: float
    """Since its last task."""


class Parking(NamedTuple):
    """level: of sleep, 1 with its weights within reach, 2 without; 0 ends the pod."""

    level: int
    reason: str


ChooseParking = Callable[[IdlePod], Parking]
"""What becomes of an idle pod that is to give its memory: it sleeps, or it ends."""


class HeldTemplate(NamedTuple):
    """A template that has no pod now, and what it keeps in memory for the next.

    uses: pods forked from templates of its function, those of the past counted less and less.  load_ms: what loading
    took.
    """

    held_mib: int
    uses: float
    load_ms: float


KeepWorth = Callable[[HeldTemplate], float]
"""Where memory is short, those worth the least go first."""
