"""CacheStats: what the RTC has done so far. Pure."""

from __future__ import annotations

from dataclasses import dataclass, field

from .moves import MoveResult, Tier


@dataclass(slots=True)
class CacheStats:
    """Counts since the engine was built.

    hit_tokens: prompt tokens whose KV was found, by the tier it lay in.  demoted_blocks: left the device for a lower
    tier.  forgotten_blocks: left the cache.  populates: sequences that waited for blocks from below, of which
    failed_populates got fewer than they waited for.  moved_blocks: by tier they came from and tier they went to.
    failed_moves: by reason.
    """

    hit_tokens: dict[Tier, int] = field(default_factory=lambda: dict.fromkeys(Tier, 0))
    demoted_blocks: int = 0
    forgotten_blocks: int = 0
    populates: int = 0
    failed_populates: int = 0
    moved_blocks: dict[tuple[Tier, Tier], int] = field(default_factory=dict)
    failed_moves: dict[str, int] = field(default_factory=dict)

    def count_move(self, result: MoveResult) -> None:
        if result.error is not None:
            self.failed_moves[result.error] = self.failed_moves.get(result.error, 0) + 1
            return
        way = (result.move.source, result.move.target)
        self.moved_blocks[way] = self.moved_blocks.get(way, 0) + 1

    def copy(self) -> CacheStats:
        """As it is now; the original goes on counting."""
        return CacheStats(
            dict(self.hit_tokens),
            self.demoted_blocks,
            self.forgotten_blocks,
            self.populates,
            self.failed_populates,
            dict(self.moved_blocks),
            dict(self.failed_moves),
        )
