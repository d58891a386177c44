"""What the choice of a chunk's size may see, and what it answers; read-only."""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple


class MapLoad(NamedTuple):
    """A map's inputs that wait, and the slots of its function's bound pods. Seconds; 0 unknown, or no limit."""

    waiting: int
    slots: int
    mean_run_s: float
    limit_s: float


class ChunkSize(NamedTuple):
    inputs: int
    reason: str


Chunking = Callable[[MapLoad], ChunkSize]
"""How many inputs of a map go to a pod that has a free slot: at least 1."""
