"""EngineEmbedder: vectors of a model that generates, computed by its engine between and beside its answers."""

from __future__ import annotations

import time
from collections.abc import Sequence
from functools import partial

from ..engine import Engine
from ..engine_texts import text_reader
from .beside_loop import beside_loop
from .engine_loop import EngineLoop
from .metrics import Metrics
from .text_room import TextRoom


class EngineEmbedder:
    def __init__(self, loop: EngineLoop, engine: Engine, metrics: Metrics, max_texts: int) -> None:
        """max_texts: those that may wait, of all requests."""
        self._loop = loop
        self._texts = text_reader(engine)
        self._metrics = metrics
        self._room = TextRoom(max_texts)

    async def embed(self, texts: Sequence[str | Sequence[int]], truncate: bool) -> tuple[list[list[float]], int]:
        """A vector for each text, and the tokens of all. Raises ApiError and FlowServeError."""
        began_s = time.monotonic()
        with self._room.hold(len(texts)):
            size = sum(map(len, texts))
            prompts = await beside_loop(size, partial(self._texts.tokenize, texts, truncate=truncate))
            vectors = await self._loop.embed(prompts)
        num_tokens = sum(map(len, prompts))
        self._metrics.embedded(len(texts), num_tokens, time.monotonic() - began_s)
        return vectors, num_tokens
