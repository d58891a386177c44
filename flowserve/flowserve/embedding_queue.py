"""EmbeddingQueue: texts of many requests on one model, a piece at a time, so that nobody waits for all of another."""

from __future__ import annotations

from collections import deque
from collections.abc import Hashable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Generic, NamedTuple, TypeVar

from .embedding_turns import EmbeddingTurns

if TYPE_CHECKING:
    from .embedding_model import EmbeddingBatch, EmbeddingModel

Key = TypeVar("Key", bound=Hashable)

PIECE_S = 0.02
"""What is computed at a time, but for a last piece that is begun within it."""

MAX_BATCHES = 4
"""Under way, of as many requests, in turn: what they have computed is in memory until they end."""


class EmbeddingOutcome(NamedTuple, Generic[Key]):
    """vectors: of all texts of a request, unless there is an error."""

    key: Key
    vectors: list[list[float]]
    error: Exception | None = None


@dataclass(slots=True)
class _Asked:
    prompts: Sequence[Sequence[int]]
    vectors: list[list[float]]
    num_left: int


@dataclass(slots=True, eq=False)
class _UnderWay(Generic[Key]):
    """texts: requests and places, in the order of the batch."""

    texts: list[tuple[Key, int]]
    computing: EmbeddingBatch


class EmbeddingQueue(Generic[Key]):
    """One thread adds, drops and advances. A request that is dropped costs at most the piece that is computed now."""

    def __init__(self, model: EmbeddingModel) -> None:
        self._model = model
        self.tokenize = model.tokenize
        self.dimension = model.dimension
        self._turns: EmbeddingTurns[Key] = EmbeddingTurns(model.turn_tokens)
        self._asked: dict[Key, _Asked] = {}
        self._under_way: deque[_UnderWay[Key]] = deque()
        """Whose piece comes next stands first."""

    @property
    def is_empty(self) -> bool:
        return not self._asked

    def add(self, key: Key, prompts: Sequence[Sequence[int]]) -> None:
        """key: never used before.  prompts: one or more, as `EmbeddingModel.tokenize` makes them."""
        self._asked[key] = _Asked(prompts, [[] for _ in prompts], len(prompts))
        self._turns.add(key, [len(prompt) for prompt in prompts])

    def drop(self, key: Key) -> None:
        """Nobody wants it any more; nothing happens where it is not here."""
        if self._asked.pop(key, None) is not None:
            self._turns.drop(key)
            self._under_way = deque(each for each in self._under_way if any(k in self._asked for k, _ in each.texts))

    def advance(self) -> list[EmbeddingOutcome[Key]]:
        """Compute for some `PIECE_S`. The requests that ended with it; a batch that raises ends those in it."""
        if self.is_empty:
            return []
        busy = {key for each in self._under_way for key, _ in each.texts}
        texts: list[tuple[Key, int]] = []
        try:
            if len(self._under_way) < MAX_BATCHES and self._turns.waits(busy):
                texts = self._turns.take(busy)
                computing = self._model.begin([self._asked[key].prompts[place] for key, place in texts])
            else:
                under_way = self._under_way.popleft()
                texts, computing = under_way.texts, under_way.computing
            if not computing.advance(PIECE_S):
                self._under_way.append(_UnderWay(texts, computing))
                return []
            return self._take(texts, computing.vectors)
        except Exception as error:
            return self._fail(texts, error)

    def _take(self, texts: Sequence[tuple[Key, int]], vectors: Sequence[list[float]]) -> list[EmbeddingOutcome[Key]]:
        ended = []
        for (key, place), vector in zip(texts, vectors, strict=True):
            if (asked := self._asked.get(key)) is not None:
                asked.vectors[place] = vector
                asked.num_left -= 1
                if not asked.num_left:
                    del self._asked[key]
                    ended.append(EmbeddingOutcome(key, asked.vectors))
        return ended

    def _fail(self, texts: Sequence[tuple[Key, int]], error: Exception) -> list[EmbeddingOutcome[Key]]:
        failed = [key for key in dict.fromkeys(key for key, _ in texts) if key in self._asked]
        for key in failed:
            self.drop(key)
        return [EmbeddingOutcome(key, [], error) for key in failed]
