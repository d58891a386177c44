"""EmbeddingLoop: one thread owns the encoder, and computes what waits together."""

from __future__ import annotations

import asyncio
import queue
import time
import traceback
from collections.abc import Sequence
from dataclasses import dataclass

from ..embedding_model import EmbeddingModel
from ..embedding_turns import BATCH_TOKENS
from ..errors import FlowServeError
from .api_error import ApiError, RequestFields, as_api_error
from .metrics import Metrics
from .model_thread import ModelThread
from .text_room import TextRoom

Vectors = list[list[float]]

_FIELDS = RequestFields("input")


@dataclass(slots=True)
class _Job:
    """Texts of one request. `prompts`: their tokens, once they are known."""

    texts: Sequence[str | Sequence[int]]
    truncate: bool
    answer: asyncio.Future[tuple[Vectors, int]]
    arrived_s: float
    prompts: list[list[int]]

    @property
    def num_tokens(self) -> int:
        return sum(map(len, self.prompts))


class EmbeddingLoop:
    def __init__(self, model: EmbeddingModel, metrics: Metrics, max_texts: int) -> None:
        """max_texts: those that may wait, of all requests."""
        self._model = model
        self._metrics = metrics
        self._room = TextRoom(max_texts)
        self._jobs: queue.SimpleQueue[_Job | None] = queue.SimpleQueue()
        self._open: set[asyncio.Future[tuple[Vectors, int]]] = set()
        self._thread = ModelThread("encoder", self._run, self.end_all)

    # --- on the event loop -----------------------------------------------------------------------------

    def start(self) -> None:
        self._thread.start()

    @property
    def is_alive(self) -> bool:
        return self._thread.is_alive

    async def embed(self, texts: Sequence[str | Sequence[int]], truncate: bool) -> tuple[Vectors, int]:
        """A vector for each text, and the tokens of all. Raises ApiError."""
        self._thread.check()
        job = _Job(texts, truncate, asyncio.get_running_loop().create_future(), time.monotonic(), [])
        with self._room.hold(len(texts)):
            self._open.add(job.answer)
            self._jobs.put(job)
            try:
                vectors, num_tokens = await job.answer
            finally:
                self._open.discard(job.answer)
        self._metrics.embedded(len(texts), num_tokens, time.monotonic() - job.arrived_s)
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
        self._jobs.put(None)
        await self._thread.join()

    # --- on the thread ---------------------------------------------------------------------------------

    def _run(self) -> None:
        while (job := self._jobs.get()) is not None:
            jobs, ends = self._gather(job)
            if jobs:
                self._compute(jobs)
            if ends:
                return

    def _gather(self, job: _Job) -> tuple[list[_Job], bool]:
        """The first and what waits behind it, up to one batch; whether the end was among it."""
        jobs: list[_Job] = []
        num_tokens, waiting = 0, True
        next_job: _Job | None = job
        while next_job is not None:
            if not next_job.answer.done() and self._tokenize(next_job):
                jobs.append(next_job)
                num_tokens += next_job.num_tokens
            if num_tokens >= BATCH_TOKENS:
                return jobs, False
            try:
                next_job = self._jobs.get_nowait()
            except queue.Empty:
                waiting = False
                break
        return jobs, waiting

    def _tokenize(self, job: _Job) -> bool:
        try:
            job.prompts = self._model.tokenize(job.texts, truncate=job.truncate)
        except Exception as error:
            self._fail([job], error)
            return False
        return True

    def _compute(self, jobs: list[_Job]) -> None:
        try:
            vectors = self._model.embed_tokens([prompt for job in jobs for prompt in job.prompts])
        except Exception as error:
            self._fail(jobs, error)
            return
        first = 0
        for job in jobs:
            own = vectors[first : first + len(job.prompts)]
            first += len(job.prompts)
            self._tell(job, (own, job.num_tokens))

    def _fail(self, jobs: list[_Job], error: Exception) -> None:
        if not isinstance(error, FlowServeError):
            traceback.print_exc()
        for job in jobs:
            self._tell(job, as_api_error(error, _FIELDS))

    def _tell(self, job: _Job, outcome: tuple[Vectors, int] | ApiError) -> None:
        def settle() -> None:
            if job.answer.done():  # its client left
                return
            if isinstance(outcome, ApiError):
                job.answer.set_exception(outcome)
            else:
                job.answer.set_result(outcome)

        self._thread.tell(settle)
