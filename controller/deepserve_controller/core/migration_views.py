"""What the choice of when a migration swaps may see, and what it answers; read-only."""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple


class MigrationRound(NamedTuple):
    """Round number `round` is over: so many tokens have come meanwhile, and in the round before."""

    round: int
    gap_tokens: int
    last_gap_tokens: int


class MigrationStep(NamedTuple):
    """Swap now, or prefill what has come in another round."""

    is_swap: bool
    reason: str


DecideMigration = Callable[[MigrationRound], MigrationStep]
