"""Tiers, and the copies of blocks between them that the master orders and an executor carries out. Pure."""

from __future__ import annotations

from dataclasses import dataclass
from enum import IntEnum


class Tier(IntEnum):
    """Where the KV of a block can lie; the smaller, the faster."""

    DEVICE = 0
    HOST = 1
    FILE = 2


@dataclass(frozen=True, slots=True)
class Move:
    """Copy one block. Plain integers, so that it can be sent to every worker as it is.

    Moves are carried out in the order of their ids, and the master never gives away a slot that one of them still has
    to read or write, except the device block of a move that leaves the device: that one is read before the next batch
    runs (see `Mover`).
    """

    move_id: int
    source: Tier
    source_slot: int
    target: Tier
    target_slot: int

    @property
    def fills_device(self) -> bool:
        return self.target is Tier.DEVICE

    @property
    def leaves_device(self) -> bool:
        return self.source is Tier.DEVICE


@dataclass(frozen=True, slots=True)
class MoveResult:
    """How a move went. error: why its data did not arrive, in words; None = they did.  seconds: what it took."""

    move: Move
    error: str | None
    seconds: float
