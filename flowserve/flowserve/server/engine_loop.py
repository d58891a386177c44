"""EngineLoop: one thread owns the engine; the event loop sends it commands and gets its outputs.

What the thread has to tell is gathered in a list, and the event loop is woken once for all of it: once per step at
most, and less often where the event loop is the slower one.
"""

from __future__ import annotations

import asyncio
import queue
import threading
import time
import traceback
from collections.abc import Callable, Sequence
from concurrent.futures import Future
from contextlib import suppress
from dataclasses import dataclass
from typing import Any, TypeVar

from ..engine import Engine
from ..engine_texts import EngineTexts
from ..errors import FlowServeError, UnknownSequenceError
from ..outputs import EngineStats, SequenceOutput
from ..params_compiler import Compiled
from .api_error import ApiError, RequestFields, as_api_error, invalid
from .generation import Generation
from .metrics import Metrics
from .model_thread import ModelThread
from .prompts import SequenceRequest

T = TypeVar("T")
Compiling = Sequence[Future[Compiled] | None]

RETRY_AFTER_S = 1
LOOK_S = 0.05


@dataclass(frozen=True)
class LoopLimits:
    """max_completions: running and waiting, of all requests.  max_unsent: characters that a reader may leave behind."""

    max_completions: int
    max_unsent: int = 1 << 20


@dataclass(slots=True)
class _Live:
    """A prompt in the engine. first: the place of its first completion.  last_s: when the latest token of each came."""

    generation: Generation
    first: int
    arrived_s: float
    last_s: list[float | None]
    num_unfinished: int


class EngineLoop:
    def __init__(self, engine: Engine, metrics: Metrics, limits: LoopLimits) -> None:
        self._engine = engine
        self._metrics = metrics
        self._limits = limits
        self._live: dict[str, _Live] = {}
        self._commands: queue.SimpleQueue[Callable[[], None] | None] = queue.SimpleQueue()
        self._news: list[Callable[[], None]] = []
        self._news_lock = threading.Lock()
        self._thread = ModelThread("engine", self._run, self.end_all)
        self._known: dict[str, int] = {}
        """Prompts in the engine, as its thread knows them: how many completions of each go on."""
        self._compiling: dict[str, Compiling] = {}
        """Of a request that is not in the engine yet, by its first sequence: one or none for each prompt."""
        self._calls: set[asyncio.Future[Any]] = set()
        self._texts: EngineTexts[asyncio.Future[Any]] = EngineTexts(engine)
        """By what waits for their vectors."""
        self.stats: EngineStats = engine.stats()
        """At most `LOOK_S` old; right whenever a sequence has ended or nothing runs."""
        self._looked_s = 0.0

    # --- on the event loop -----------------------------------------------------------------------------

    def start(self) -> None:
        self._thread.start()

    @property
    def is_alive(self) -> bool:
        return self._thread.is_alive

    @property
    def is_ready(self) -> bool:
        """Whether the engine would take a request: it lives and is awake."""
        return self.is_alive and not self.stats.sleep_level

    @property
    def num_unfinished(self) -> int:
        """Completions that run or wait."""
        return sum(live.num_unfinished for live in self._live.values())

    def submit(self, request_id: str, requests: list[SequenceRequest], fields: RequestFields) -> Generation:
        """Queue the prompts of one request. Raises ApiError when they are too many, now (503) or ever (400)."""
        generation = Generation(request_id, requests, fields, self._abort)
        self._check_room(generation.num_completions, "n" if len(requests) == 1 else fields.prompt)
        first, now_s = 0, time.monotonic()
        for sequence_id, request in zip(generation.sequence_ids, requests, strict=True):
            n = request.params.n
            self._live[sequence_id] = _Live(generation, first, now_s, [None] * n, n)
            first += n
        self._commands.put(lambda: self._compile(generation))
        return generation

    async def call(self, work: Callable[[Engine], T]) -> T:
        """What `work` returns or raises, on the engine's thread, between two steps. Raises ApiError at the end."""
        result: T = await self._answer_of(lambda done: self._call(work, done))
        return result

    async def embed(self, prompts: list[list[int]]) -> list[list[float]]:
        """A vector for each prompt, computed in steps with what is generated. Raises ApiError and FlowServeError."""

        def leave(done: asyncio.Future[Any]) -> None:
            self._commands.put(lambda: self._texts.drop(done))

        vectors: list[list[float]] = await self._answer_of(lambda done: self._texts.add(done, prompts), leave)
        return vectors

    async def _answer_of(
        self,
        command: Callable[[asyncio.Future[Any]], None],
        leave: Callable[[asyncio.Future[Any]], None] | None = None,
    ) -> Any:
        """What becomes of a command on the engine's thread. leave: called when nobody waits for it any more."""
        self._thread.check()
        done: asyncio.Future[Any] = asyncio.get_running_loop().create_future()
        self._calls.add(done)
        self._commands.put(lambda: command(done))
        try:
            return await done
        finally:
            self._calls.discard(done)
            if leave is not None:
                leave(done)

    def end_all(self, reason: str) -> None:
        """Answer every request and call with an error now, and every later one."""
        self._thread.end(reason)
        for done in self._calls:
            if not done.done():
                done.set_exception(ApiError(503, reason))
        for live in list(self._live.values()):
            live.generation.fail(ApiError(503, reason))

    async def close(self) -> None:
        """Ends what still runs and waits for the thread, one step at most."""
        self.end_all("the server is shutting down")
        self._commands.put(None)
        await self._thread.join()

    def _check_room(self, num_completions: int, param: str) -> None:
        limit = self._limits.max_completions
        if num_completions > limit:
            text = f"{num_completions} completions are more than the {limit} that this server takes at a time"
            raise invalid(text, param)
        self._thread.check()
        if self.num_unfinished + num_completions > limit:
            raise ApiError(
                503,
                f"{self.num_unfinished} completions run or wait, of {limit} that this server takes; try again later",
                code="queue_full",
                headers={"retry-after": str(RETRY_AFTER_S)},
            )

    def _abort(self, sequence_ids: list[str]) -> None:
        """What of those prompts still runs gives no more output, and the engine forgets it before its next step."""
        found = [live for live in (self._live.pop(sequence_id, None) for sequence_id in sequence_ids) if live]
        if num_running := sum(live.num_unfinished for live in found if live.generation.is_accepted):
            self._metrics.finished("abort", num_running)
        if found:
            self._commands.put(lambda: self._forget(sequence_ids))

    def _deliver(self) -> None:
        with self._news_lock:
            news, self._news = self._news, []
        for tell in news:
            try:
                tell()
            except Exception:  # what follows is for others
                traceback.print_exc()

    def _receive(self, outputs: list[SequenceOutput], now_s: float) -> None:
        for output in outputs:
            live = self._live.get(output.sequence_id)
            if live is None:  # aborted meanwhile
                continue
            try:
                self._give(live, output, now_s)
            except Exception as error:  # one answer that cannot be given must not take the others with it
                traceback.print_exc()
                live.generation.fail(as_api_error(error))

    def _give(self, live: _Live, output: SequenceOutput, now_s: float) -> None:
        if output.finished:
            live.num_unfinished -= 1
            if not live.num_unfinished:
                del self._live[output.sequence_id]
        self._metrics.output(output, live.arrived_s, live.last_s[output.index], now_s)
        live.last_s[output.index] = now_s
        if output.error is not None:
            fault = invalid(output.error, live.generation.fields.grammar)
            live.generation.fail(fault if output.is_request_fault else ApiError(500, output.error))
        elif live.generation.put(live.first + output.index, output) > self._limits.max_unsent:
            live.generation.fail(ApiError(500, "the client reads too slowly", code="slow_reader"))

    # --- on the engine's thread ------------------------------------------------------------------------

    def _run(self) -> None:
        try:
            while self._take_commands():
                for outcome in self._texts.advance():
                    self._settle(*outcome)
                if self._engine.has_work:
                    self._step()
        finally:
            self._engine.close()

    def _take_commands(self) -> bool:
        """All that came; waits for one where there is nothing to compute. False = the end."""
        while True:
            is_idle = not self._engine.has_work and self._texts.is_empty
            if is_idle:
                self._look()
            try:
                command = self._commands.get(block=is_idle)
            except queue.Empty:
                return True
            if command is None:
                return False
            command()

    def _step(self) -> None:
        try:
            outputs = self._engine.step()
        except Exception as error:  # a broken step must not leave its sequences without an answer
            traceback.print_exc()
            broken, text = list(self._known), f"a step of the engine failed: {type(error).__name__}: {error}"
            self._forget(broken)
            self._texts.fail(FlowServeError(text))
            self._tell(lambda: self._fail(broken, text))
            return
        outputs = [output for output in outputs if not self._texts.take(output)]
        has_ends = self._count_finished(outputs)
        now_s = time.monotonic()
        if has_ends or now_s > self._looked_s + LOOK_S:
            self._look()
        if outputs:
            self._tell(lambda: self._receive(outputs, now_s))

    def _look(self) -> None:
        self.stats = self._engine.stats()
        self._looked_s = time.monotonic()

    def _count_finished(self, outputs: list[SequenceOutput]) -> bool:
        """Whether any has."""
        finished = [output.sequence_id for output in outputs if output.finished]
        for sequence_id in finished:
            if sequence_id in self._known:
                self._known[sequence_id] -= 1
                if not self._known[sequence_id]:
                    del self._known[sequence_id]
        return bool(finished)

    def _compile(self, generation: Generation) -> None:
        """Have a request's params compiled while the others go on; then it is added, unless it is forgotten first."""
        compiling = [self._engine.compiler.submit(request.params) for request in generation.requests]
        self._compiling[generation.sequence_ids[0]] = compiling
        for each in compiling:
            if each is not None:
                each.add_done_callback(lambda _: self._commands.put(lambda: self._add(generation)))
        self._add(generation)

    def _add(self, generation: Generation) -> None:
        """All prompts of a request, or none of them."""
        compiling = self._compiling.get(generation.sequence_ids[0])
        if compiling is None or not all(each is None or each.done() for each in compiling):
            return
        del self._compiling[generation.sequence_ids[0]]
        added: dict[str, int] = {}
        try:
            for sequence_id, request, compiled in zip(
                generation.sequence_ids, generation.requests, compiling, strict=True
            ):
                self._engine.add(
                    sequence_id,
                    request.prompt_ids,
                    request.params,
                    priority=request.priority,
                    cache_salt=request.cache_salt,
                    compiled=None if compiled is None else compiled.result(),
                )
                added[sequence_id] = request.params.n
        except Exception as error:
            if not isinstance(error, FlowServeError):
                traceback.print_exc()
            for sequence_id in added:
                self._engine.abort(sequence_id)
            refusal = as_api_error(error, generation.fields)
            self._tell(lambda: generation.fail(refusal))
        else:
            self._known.update(added)
            self._tell(generation.accept)

    def _call(self, work: Callable[[Engine], T], done: asyncio.Future[T]) -> None:
        error: Exception | None = None
        result: T | None = None
        try:
            result = work(self._engine)
        except Exception as raised:
            error = raised
        self.stats = self._engine.stats()
        self._settle(done, result, error)

    def _settle(self, done: asyncio.Future[Any], result: object, error: Exception | None) -> None:
        def answer() -> None:
            if done.done():  # whoever asked has left
                return
            if error is not None:
                done.set_exception(error)
            else:
                done.set_result(result)

        self._tell(answer)

    def _forget(self, sequence_ids: list[str]) -> None:
        for sequence_id in sequence_ids:
            for compiling in self._compiling.pop(sequence_id, ()):
                if compiling is not None:
                    compiling.cancel()
            if self._known.pop(sequence_id, None) is not None:
                with suppress(UnknownSequenceError):
                    self._engine.abort(sequence_id)

    def _tell(self, tell: Callable[[], None]) -> None:
        with self._news_lock:
            self._news.append(tell)
            if len(self._news) > 1:
                return  # the event loop is on its way
        self._thread.tell(self._deliver)

    def _fail(self, sequence_ids: list[str], text: str) -> None:
        """On the event loop."""
        for sequence_id in sequence_ids:
            if (live := self._live.get(sequence_id)) is not None:
                live.generation.fail(ApiError(500, text))
