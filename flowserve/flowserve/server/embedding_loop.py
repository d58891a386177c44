"""EmbeddingLoop: one thread owns the encoder, and computes what waits together."""

from __future__ import annotations

import asyncio
import queue
import time
import traceback
from collections.abc import Callable, Sequence
from functools import partial

from ..embedding_model import EmbeddingModel
from ..embedding_queue import EmbeddingOutcome, EmbeddingQueue
from ..errors import FlowServeError
from .api_error import ApiError, RequestFields, as_api_error
from .beside_loop import beside_loop
from .metrics import Metrics
from .model_thread import ModelThread
from .text_room import TextRoom

Vectors = list[list[float]]
Answer = asyncio.Future[Vectors]
"""What a request waits for; its key in the queue."""

_FIELDS = RequestFields("input")


class EmbeddingLoop:
    """Requests share the thread: each has its pieces in turn, and none more once its client has left."""

    def __init__(self, model: EmbeddingModel, metrics: Metrics, max_texts: int) -> None:
        """max_texts: those that may wait, of all requests."""
        self._model = model
        self._metrics = metrics
        self._room = TextRoom(max_texts)
        self._commands: queue.SimpleQueue[Callable[[], None] | None] = queue.SimpleQueue()
        self._open: set[Answer] = set()
        self._queue: EmbeddingQueue[Answer] = EmbeddingQueue(model)
        """The thread's own."""
        self._thread = ModelThread("encoder", self._run, self.end_all)

    # --- on the event loop -----------------------------------------------------------------------------

    def start(self) -> None:
        self._thread.start()

    @property
    def is_alive(self) -> bool:
        return self._thread.is_alive

    async def embed(self, texts: Sequence[str | Sequence[int]], truncate: bool) -> tuple[Vectors, int]:
        """A vector for each text, and the tokens of all. Raises ApiError and FlowServeError."""
        self._thread.check()
        began_s = time.monotonic()
        with self._room.hold(len(texts)):
            prompts = await beside_loop(sum(map(len, texts)), partial(self._model.tokenize, texts, truncate=truncate))
            self._thread.check()
            answer: Answer = asyncio.get_running_loop().create_future()
            self._open.add(answer)
            self._commands.put(partial(self._queue.add, answer, prompts))
            try:
                vectors = await answer
            finally:
                self._open.discard(answer)
                self._commands.put(partial(self._queue.drop, answer))  # for where its client has left
        num_tokens = sum(map(len, prompts))
        self._metrics.embedded(len(texts), num_tokens, time.monotonic() - began_s)
        return vectors, num_tokens

    def end_all(self, reason: str) -> None:
        """Answer every request with an error now, and every later one."""
        self._thread.end(reason)
        for answer in list(self._open):
            if not answer.done():
                answer.set_exception(ApiError(503, reason))

    async def close(self) -> None:
        """Waits for the thread: what it computes now at most."""
        self.end_all("the server is shutting down")
        self._commands.put(None)
        await self._thread.join()

    # --- on the thread ---------------------------------------------------------------------------------

    def _run(self) -> None:
        while self._take_commands():
            for outcome in self._queue.advance():
                self._tell(outcome)

    def _take_commands(self) -> bool:
        """All that came; waits for one where there is nothing to compute. False = the end."""
        while True:
            try:
                command = self._commands.get(block=self._queue.is_empty)
            except queue.Empty:
                return True
            if command is None:
                return False
            command()

    def _tell(self, outcome: EmbeddingOutcome[Answer]) -> None:
        answer, vectors, error = outcome
        if error is not None and not isinstance(error, FlowServeError):
            traceback.print_exception(error)

        def settle() -> None:
            if answer.done():  # its client left
                return
            if error is not None:
                answer.set_exception(as_api_error(error, _FIELDS))
            else:
                answer.set_result(vectors)

        self._thread.tell(settle)
