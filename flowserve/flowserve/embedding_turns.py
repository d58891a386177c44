"""EmbeddingTurns: texts of many requests in batches of similar length, so that none waits for all of another."""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Collection, Hashable, Sequence
from dataclasses import dataclass
from typing import Generic, TypeVar

Key = TypeVar("Key", bound=Hashable)

BATCH_TOKENS = 4096
"""Tokens of one forward pass, padding included; a longer text is a pass of its own."""

_MAX_PADDING = 0.25
"""Of a batch's tokens; texts of more different lengths are computed apart."""


@dataclass(slots=True)
class _Waiting:
    """Texts of one request, by their places: the shortest first, for the longest is taken first."""

    places: list[int]
    lengths: list[int]


class EmbeddingTurns(Generic[Key]):
    def __init__(self, max_tokens: int = BATCH_TOKENS) -> None:
        """max_tokens: of a batch, padding included."""
        self._max_tokens = max_tokens
        self._waiting: dict[Key, _Waiting] = {}
        """Whose turn it is stands first."""

    @property
    def is_empty(self) -> bool:
        return not self._waiting

    def add(self, key: Key, lengths: Sequence[int]) -> None:
        """lengths: in tokens, one or more for each text of the request."""
        places = sorted(range(len(lengths)), key=lambda place: (lengths[place], -place))
        if places:
            self._waiting[key] = _Waiting(places, [lengths[place] for place in places])

    def drop(self, key: Key) -> None:
        """What of it is not taken yet is not computed."""
        self._waiting.pop(key, None)

    def waits(self, beside: Collection[Key] = ()) -> bool:
        """Whether `take` has a batch."""
        return any(key not in beside for key in self._waiting)

    def take(self, beside: Collection[Key] = ()) -> list[tuple[Key, int]]:
        """The next batch: requests and places of their texts.

        The longest text of the request whose turn it is, and texts of nearly its length, its own before others'.
        beside: requests that have a batch under way, and wait for it.
        """
        batch: list[tuple[Key, int]] = []
        num_tokens = longest = 0
        for key, waiting in [each for each in self._waiting.items() if each[0] not in beside]:
            at = bisect_right(waiting.lengths, longest) - 1 if batch else len(waiting.lengths) - 1
            while at >= 0:
                length = waiting.lengths[at]
                longest = longest or length
                padded = longest * (len(batch) + 1)
                if batch and (padded > self._max_tokens or padded - num_tokens - length > _MAX_PADDING * padded):
                    break
                batch.append((key, waiting.places.pop(at)))
                num_tokens += waiting.lengths.pop(at)
                at -= 1
            if not waiting.places or key == batch[0][0]:
                del self._waiting[key]
            if waiting.places and key == batch[0][0]:
                self._waiting[key] = waiting  # behind the others
        return batch


def batches_by_length(lengths: Sequence[int], max_tokens: int = BATCH_TOKENS) -> list[list[int]]:
    """Indices in batches of similar length, longest first: little padding, and the peak of memory comes at once."""
    turns: EmbeddingTurns[None] = EmbeddingTurns(max_tokens)
    turns.add(None, lengths)
    batches: list[list[int]] = []
    while not turns.is_empty:
        batches.append([place for _, place in turns.take()])
    return batches
