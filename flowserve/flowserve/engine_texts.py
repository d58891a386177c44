"""EngineTexts: vectors of a model that generates, from its engine's own weights and steps."""

from __future__ import annotations

import math
from collections.abc import Hashable, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from itertools import count
from typing import Generic, TypeVar

from .embedding_queue import EmbeddingOutcome
from .embedding_texts import EmbeddingTexts
from .embedding_turns import EmbeddingTurns
from .engine import Engine
from .errors import FlowServeError, UnknownSequenceError
from .outputs import SequenceOutput
from .sampling_params import SamplingParams

Key = TypeVar("Key", bound=Hashable)

ONE_TOKEN = SamplingParams(max_tokens=1, temperature=0.0, detokenize=False, ignore_eos=True)
"""What is computed for a text's state; the token itself means nothing."""

BEHIND_ANSWERS = 1 << 30
"""The priority of texts. The prompts of all answers come first, but not for ever (see BoundedPriority)."""


@dataclass(slots=True)
class _Asked:
    prompts: Sequence[list[int]]
    vectors: list[list[float]]
    num_left: int
    sequence_ids: set[str] = field(default_factory=set)
    """In the engine."""


class EngineTexts(Generic[Key]):
    """Each text is a sequence of the engine, a few at a time, so that requests take turns and what is dropped ends.

    On the engine's thread: `advance` before a step, then `take` its outputs.
    """

    def __init__(self, engine: Engine) -> None:
        self._engine = engine
        self.tokenize = text_reader(engine).tokenize
        self.dimension = engine.model_config.hidden_size
        self._max_tokens = engine.config.max_num_batched_tokens
        self._turns: EmbeddingTurns[Key] = EmbeddingTurns(self._max_tokens)
        self._asked: dict[Key, _Asked] = {}
        self._computed: dict[str, tuple[Key, int]] = {}
        """By sequence id: what is in the engine, and which text of its request it is."""
        self._ended: list[EmbeddingOutcome[Key]] = []
        self._ids = count()

    @property
    def is_empty(self) -> bool:
        """Nothing is left to compute, nor to be told."""
        return not self._asked and not self._ended

    def add(self, key: Key, prompts: Sequence[list[int]]) -> None:
        """key: never used before.  prompts: one or more, as `tokenize` makes them."""
        self._asked[key] = _Asked(prompts, [[] for _ in prompts], len(prompts))
        self._turns.add(key, [len(prompt) for prompt in prompts])

    def drop(self, key: Key) -> None:
        """Nobody wants it any more, nor to be told how it ended; nothing happens where it is not here."""
        self._ended = [each for each in self._ended if each.key != key]
        if (asked := self._asked.pop(key, None)) is not None:
            self._turns.drop(key)
            for sequence_id in asked.sequence_ids:
                del self._computed[sequence_id]
                with suppress(UnknownSequenceError):
                    self._engine.abort(sequence_id)

    def advance(self) -> list[EmbeddingOutcome[Key]]:
        """Give the engine texts for about two steps; the requests that have ended since."""
        num_tokens = sum(len(self._asked[key].prompts[place]) for key, place in self._computed.values())
        while num_tokens < self._max_tokens and self._turns.waits():
            for key, place in self._turns.take():
                if (asked := self._asked.get(key)) is not None:
                    num_tokens += len(asked.prompts[place])
                    self._start(key, place, asked)
        ended, self._ended = self._ended, []
        return ended

    def take(self, output: SequenceOutput) -> bool:
        """Whether the output is of a text."""
        if (found := self._computed.pop(output.sequence_id, None)) is None:
            return False
        key, place = found
        asked = self._asked[key]
        asked.sequence_ids.remove(output.sequence_id)
        if output.error is not None or output.hidden is None:
            self._fail(key, FlowServeError(output.error or f"the engine ended a text: {output.finish_reason}"))
            return True
        try:
            asked.vectors[place] = unit_vector(output.hidden)
        except FlowServeError as error:
            self._fail(key, error)
            return True
        asked.num_left -= 1
        if not asked.num_left:
            del self._asked[key]
            self._ended.append(EmbeddingOutcome(key, asked.vectors))
        return True

    def fail(self, error: Exception) -> None:
        """The engine computes nothing of what it has any more."""
        for key in list(self._asked):
            self._fail(key, error)

    def _start(self, key: Key, place: int, asked: _Asked) -> None:
        sequence_id = f"text {next(self._ids)}"
        try:
            self._engine.add(sequence_id, asked.prompts[place], ONE_TOKEN, priority=BEHIND_ANSWERS, wants_hidden=True)
        except FlowServeError as error:  # it sleeps, or is closed
            return self._fail(key, error)
        asked.sequence_ids.add(sequence_id)
        self._computed[sequence_id] = (key, place)

    def _fail(self, key: Key, error: Exception) -> None:
        self.drop(key)
        self._ended.append(EmbeddingOutcome(key, [], error))


def text_reader(engine: Engine) -> EmbeddingTexts:
    """What makes token ids of texts for an engine's model."""
    return EmbeddingTexts(engine.tokenizer, engine.model_config.vocab_size, engine.max_model_len)


def unit_vector(hidden: Sequence[float]) -> list[float]:
    """Of length 1, as vectors of decoders are that say nothing of pooling: see EmbeddingModel.

    Raises FlowServeError for what is no vector.
    """
    length = max(math.sqrt(sum(value * value for value in hidden)), 1e-12)
    if not math.isfinite(length):
        raise FlowServeError(
            "the model's state is no numbers (NaN or infinity): its weights are too large for the dtype"
        )
    return [value / length for value in hidden]
