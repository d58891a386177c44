"""Drafts without a second model: what followed the last tokens of a sequence when they occurred in it before.

Code, quotations, lists and answers about a given text repeat themselves; where they do, several tokens are verified at
the cost of little more than one (prompt look-up decoding, Saxena 2023).
"""

from __future__ import annotations

from collections.abc import Sequence

MAX_PAUSE = 32
_SHIFT = 32  # bits of a token id in a key


class NgramIndex:
    """Where each run of `sizes` tokens ended last; a token costs one look-up and one entry for each size."""

    def __init__(self, tokens: Sequence[int], sizes: Sequence[int]) -> None:
        self._tokens = tokens
        self._window = 0  # the last tokens as one number
        self._levels: list[tuple[int, int, dict[int, int]]] = [
            (size, (1 << _SHIFT * size) - 1, {}) for size in sorted(sizes, reverse=True)
        ]
        self._num_indexed = 0
        self._match = 0  # how many tokens stand before what may come next; 0 for no guess

    def draft(self, count: int) -> list[int]:
        """Up to `count` tokens that followed the longest known run before; [] where it never occurred.

        A run that overlaps its own earlier occurrence is a loop, and goes on as one.
        """
        self._catch_up()
        start = self._match
        if not start or count < 1:
            return []
        found = list(self._tokens[start : start + count])
        period = len(self._tokens) - start
        while len(found) < count:
            found.append(found[len(found) - period])
        return found

    def _catch_up(self) -> None:
        window, longest = self._window, self._levels[0][1]
        for end in range(self._num_indexed + 1, len(self._tokens) + 1):
            window = (window << _SHIFT | self._tokens[end - 1]) & longest
            match = 0
            for size, mask, ends in self._levels:
                if end >= size:
                    key = window & mask
                    if not match:
                        match = ends.get(key, 0)
                    ends[key] = end
            self._match = match
        self._window, self._num_indexed = window, len(self._tokens)


class Drafter:
    """Guesses for one sequence, fewer and more seldom where they fail.

    num_tokens: guesses at most.  ngram_sizes: shortest and longest run that must have occurred before.
    """

    def __init__(self, tokens: Sequence[int], num_tokens: int, ngram_sizes: tuple[int, int]) -> None:
        shortest, longest = ngram_sizes
        self._index = NgramIndex(tokens, range(shortest, longest + 1))
        self._max_width = num_tokens
        self._width = num_tokens
        self._pause = 0  # steps to go without guesses
        self._next_pause = 1

    def draft(self) -> list[int]:
        """Guesses for the tokens that come next; to be called once a step."""
        if self._pause:
            self._pause -= 1
            return []
        return self._index.draft(self._width)

    def learn(self, num_drafts: int, num_right: int) -> None:
        """How many of the guesses of a step were right. Failures in a row double the pause; hits widen the guess."""
        if num_right == 0:
            self._pause = self._next_pause
            self._next_pause = min(2 * self._next_pause, MAX_PAUSE)
        else:
            self._next_pause = 1
        self._width = min(2 * self._width, self._max_width) if num_right == num_drafts else num_right + 1
