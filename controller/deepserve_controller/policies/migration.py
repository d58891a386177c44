"""Migration: whether a running sequence goes to its new pod now, or that first prefills what came meanwhile."""

from __future__ import annotations

from deepserve_controller.core.migration_views import MigrationRound, MigrationStep

SMALL_GAP_TOKENS = 64
"""Prefilled in about the time of a step or two: the reader does not notice."""
MAX_ROUNDS = 5


def until_the_gap_is_small(view: MigrationRound) -> MigrationStep:
    """ServerlessLLM's rounds (2.4): the source generates while the destination prefills, and the gap is what came in
    that time. It shrinks by the ratio of the two speeds, unless the destination is slower than the source: then more
    rounds do not help, and the swap is made all the same, for each sequence ends its source's wait sooner or later."""
    if view.gap_tokens <= SMALL_GAP_TOKENS:
        return MigrationStep(True, f"{view.gap_tokens} tokens behind after {view.round} rounds")
    if view.round >= MAX_ROUNDS:
        return MigrationStep(True, f"still {view.gap_tokens} tokens behind after {view.round} rounds, the most")
    if view.round > 1 and view.gap_tokens >= view.last_gap_tokens:
        return MigrationStep(True, f"the gap does not shrink: {view.gap_tokens} tokens after {view.last_gap_tokens}")
    return MigrationStep(False, f"{view.gap_tokens} tokens behind after {view.round} rounds")
