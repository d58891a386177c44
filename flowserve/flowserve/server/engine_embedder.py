"""EngineEmbedder: vectors of a model that generates, computed on its engine's thread between two steps."""

from __future__ import annotations

import time
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from ..embedding_turns import batches_by_length
from ..engine import Engine
from .beside_loop import beside_loop
from .engine_loop import EngineLoop
from .metrics import Metrics
from .text_room import TextRoom

if TYPE_CHECKING:
    from ..embedding_model import EmbeddingModel

Prompts = list[list[int]]
Vectors = list[list[float]]


class EngineEmbedder:
    """The folder is loaded once more, in torch, with the first request: few ask a model that generates for vectors."""

    def __init__(self, loop: EngineLoop, folder: Path, metrics: Metrics, max_texts: int) -> None:
        """max_texts: those that may wait, of all requests."""
        self._loop = loop
        self._folder = folder
        self._metrics = metrics
        self._room = TextRoom(max_texts)
        self._loaded: EmbeddingModel | None = None

    async def embed(self, texts: Sequence[str | Sequence[int]], truncate: bool) -> tuple[Vectors, int]:
        """A vector for each text, and the tokens of all. Raises ApiError and FlowServeError.

        The engine's sequences make a step after each batch, so that no answer waits for all of a long list.
        """
        began_s = time.monotonic()
        with self._room.hold(len(texts)):
            model = await self._loop.call(self._model)
            prompts = await beside_loop(_size(texts), partial(model.tokenize, texts, truncate=truncate))
            vectors: Vectors = [[] for _ in prompts]
            for batch in batches_by_length([len(prompt) for prompt in prompts], model.turn_tokens):
                found = await self._loop.call(partial(self._vectors, [prompts[place] for place in batch]))
                for place, vector in zip(batch, found, strict=True):
                    vectors[place] = vector
        num_tokens = sum(map(len, prompts))
        self._metrics.embedded(len(texts), num_tokens, time.monotonic() - began_s)
        return vectors, num_tokens

    def release(self) -> None:
        """On the engine's thread: let go of the model; the next request loads it again."""
        self._loaded = None

    def _vectors(self, prompts: Prompts, engine: Engine) -> Vectors:
        return self._model(engine).embed_tokens(prompts)

    def _model(self, engine: Engine) -> EmbeddingModel:
        """Raises EngineAsleepError: what sleeps gives memory back, and takes none."""
        engine.check_awake()
        if self._loaded is None:
            from ..embedding_model import EmbeddingModel

            self._loaded = EmbeddingModel.of_engine(self._folder, engine.config, engine.max_model_len)
        return self._loaded


def _size(texts: Sequence[str | Sequence[int]]) -> int:
    """Characters and token ids of all."""
    return sum(map(len, texts))
