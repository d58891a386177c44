"""What changes the logits of one sequence before a token is chosen; each constraint follows the tokens as they come.

`apply` costs what the constraint names, not what the sequence has grown to.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Collection, Mapping, Sequence
from typing import Protocol

import numpy as np

from ..sampling_params import SamplingParams
from .drawing import Row

_FORBIDDEN = -np.inf


class Constraint(Protocol):
    def apply(self, logits: Row) -> None:
        """Change one row [V] of float32 logits in place."""

    def append(self, token_id: int) -> None:
        """The sequence has one more token."""


class MinTokens:
    """No end token among the next `num_left` tokens."""

    def __init__(self, num_left: int, end_token_ids: Sequence[int]) -> None:
        self._num_left = num_left
        self._end_token_ids = np.array(end_token_ids, dtype=np.int64)

    def apply(self, logits: Row) -> None:
        if self._num_left > 0:
            logits[self._end_token_ids] = _FORBIDDEN

    def append(self, token_id: int) -> None:
        self._num_left -= 1


class LogitBias:
    """A number added to the logits of some tokens."""

    def __init__(self, bias: Mapping[int, float]) -> None:
        self._token_ids = np.array(list(bias), dtype=np.int64)
        self._values = np.array(list(bias.values()), dtype=np.float32)

    def apply(self, logits: Row) -> None:
        logits[self._token_ids] += self._values

    def append(self, token_id: int) -> None:
        pass


class BadWordTable:
    """Token sequences by what they forbid. alone: tokens.  behind: those of several, by the token before the last."""

    def __init__(self, words: Collection[tuple[int, ...]]) -> None:
        self.alone = np.array(sorted({word[0] for word in words if len(word) == 1}), dtype=np.int64)
        self.behind: defaultdict[int, list[tuple[int, ...]]] = defaultdict(list)
        for word in words:
            if len(word) > 1:
                self.behind[word[-2]].append(word)
        self.longest = max(map(len, words), default=1)


class BadWords:
    """Token sequences that the output must not complete: the last token is forbidden behind the others."""

    def __init__(self, words: BadWordTable, output: Sequence[int]) -> None:
        self._words = words
        self._num_kept = words.longest
        self._output = list(output[-self._num_kept :])

    def apply(self, logits: Row) -> None:
        if len(self._words.alone):
            logits[self._words.alone] = _FORBIDDEN
        if self._output and (words := self._words.behind.get(self._output[-1])):
            for word in words:
                if self._output[1 - len(word) :] == list(word[:-1]):
                    logits[word[-1]] = _FORBIDDEN

    def append(self, token_id: int) -> None:
        self._output.append(token_id)
        if len(self._output) > 4 * self._num_kept:
            del self._output[: -self._num_kept]


class Penalties:
    """Repetition penalty of the tokens seen, presence and frequency penalty of those put out."""

    def __init__(self, params: SamplingParams, tokens: Sequence[int], num_prompt_tokens: int) -> None:
        self._repetition = np.float32(params.repetition_penalty)
        self._presence = np.float32(params.presence_penalty)
        self._frequency = np.float32(params.frequency_penalty)
        self._slots: dict[int, int] = {}  # place of each distinct token in the two arrays
        self._token_ids = np.zeros(64, dtype=np.int64)
        self._counts = np.zeros(64, dtype=np.float32)  # in the output; 0 for tokens of the prompt alone
        for token_id in dict.fromkeys(tokens[:num_prompt_tokens]):
            self._slot(token_id)
        for token_id in tokens[num_prompt_tokens:]:
            self.append(token_id)

    def apply(self, logits: Row) -> None:
        size = len(self._slots)
        seen = self._token_ids[:size]
        values = logits[seen]
        if self._repetition != 1.0:
            values = np.where(values > 0, values / self._repetition, values * self._repetition)
        if self._presence or self._frequency:
            counts = self._counts[:size]
            values -= self._presence * (counts > 0) + self._frequency * counts
        logits[seen] = values

    def append(self, token_id: int) -> None:
        self._counts[self._slot(token_id)] += 1.0

    def _slot(self, token_id: int) -> int:
        slot = self._slots.setdefault(token_id, len(self._slots))
        if slot == len(self._token_ids):
            self._token_ids = np.concatenate([self._token_ids, np.zeros_like(self._token_ids)])
            self._counts = np.concatenate([self._counts, np.zeros_like(self._counts)])
        self._token_ids[slot] = token_id
        return slot
