"""EngineEmbedder: vectors of a model that generates, computed on its engine's thread between two steps."""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from ..engine import Engine
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
            prompts = await self._loop.call(lambda engine: self._model(engine).tokenize(texts, truncate=truncate))
            vectors: Vectors = []
            for batch in _batches(prompts):
                vectors += await self._loop.call(partial(self._vectors, batch))
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


def _batches(prompts: Prompts) -> Iterator[Prompts]:
    from ..embedding_model import BATCH_TOKENS

    batch: Prompts = []
    for prompt in prompts:
        if batch and sum(map(len, batch)) + len(prompt) > BATCH_TOKENS:
            yield batch
            batch = []
        batch.append(prompt)
    if batch:
        yield batch
