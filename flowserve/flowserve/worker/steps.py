"""Steps in flight: batches given to a worker whose tokens have not been read.

Inline, a step runs when it is asked for. In a thread, step n+1 waits behind step n and begins the moment n ends, while
the engine still reads n's tokens (DeepServe 2.6 b): all that Python does between two steps of the device is hidden, at
the price of handing each step over and of one step more between a sequence's arrival and its first.
"""

from __future__ import annotations

import threading
import time
from collections import deque
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass
from queue import Empty, SimpleQueue
from typing import Any, Protocol

from ..config import EngineConfig
from ..models.loader import LoadedModel
from ..scheduling.batch import Batch
from .sampler import SampledToken
from .worker import Worker


@dataclass(frozen=True, slots=True)
class FinishedStep:
    """A step's tokens, or the error that ended it.  seconds: what computing it took."""

    batch: Batch
    sampled: Mapping[str, list[SampledToken]]
    error: BaseException | None = None
    seconds: float = 0.0


class StepsInFlight(Protocol):
    """Steps of one worker, oldest first. depth: how many are worth having in flight."""

    depth: int

    def __len__(self) -> int: ...

    def submit(self, batch: Batch) -> None:
        """Put a step behind those in flight."""

    def collect(self) -> FinishedStep:
        """Wait for the oldest step. There must be one."""

    def close(self) -> bool:
        """Let the step that runs end and forget all. May be called again.

        False where it goes on: called in its own thread, which collects a dropped engine, nobody can wait for it.
        """


def steps_of(worker: Worker, config: EngineConfig, loaded: LoadedModel) -> StepsInFlight:
    """In a thread if the config says so, or leaves it open and the cores have nothing else to do."""
    overlap = config.overlap
    if overlap is None:
        overlap = loaded.device.name != "cpu" and not config.speculative_tokens
    return ThreadedSteps(worker) if overlap else InlineSteps(worker)


class InlineSteps:
    """See StepsInFlight. Runs each step where it is collected."""

    depth = 1

    def __init__(self, worker: Worker) -> None:
        self._worker = worker
        self._waiting: deque[Batch] = deque()
        self._failed: FinishedStep | None = None

    def __len__(self) -> int:
        return len(self._waiting) + (self._failed is not None)

    def submit(self, batch: Batch) -> None:
        self._waiting.append(batch)

    def collect(self) -> FinishedStep:
        """An interrupt (Ctrl-C) is raised here; the step that it broke is collected next, as one that failed."""
        if self._failed is not None:
            failed, self._failed = self._failed, None
            return failed
        batch = self._waiting.popleft()
        try:
            return _run_step(self._worker, batch)
        except Exception as error:
            return FinishedStep(batch, {}, error)
        except BaseException as error:
            self._failed = FinishedStep(batch, {}, error)
            raise

    def close(self) -> bool:
        self._waiting.clear()
        self._failed = None
        return True


class ThreadedSteps:
    """See StepsInFlight. A thread of its own runs the steps; it is started by the first and ended by `close`."""

    depth = 2

    def __init__(self, worker: Worker) -> None:
        self._worker = worker
        self._submitted: SimpleQueue[Batch | None] = SimpleQueue()
        self._finished: SimpleQueue[FinishedStep] = SimpleQueue()
        self._num_in_flight = 0
        self._thread: threading.Thread | None = None

    def __len__(self) -> int:
        return self._num_in_flight

    def submit(self, batch: Batch) -> None:
        if self._thread is None:
            arguments = (self._worker, self._submitted, self._finished)  # not self: an engine dropped must not live on
            thread = threading.Thread(target=_run_steps, args=arguments, name="flowserve-worker", daemon=True)
            thread.start()  # one that could not start must not be waited for
            self._thread = thread
        self._num_in_flight += 1
        self._submitted.put(batch)

    def collect(self) -> FinishedStep:
        finished = self._finished.get()
        self._num_in_flight -= 1
        return finished

    def close(self) -> bool:
        thread, self._thread = self._thread, None
        is_own = thread is threading.current_thread()
        if thread is not None:
            _drain(self._submitted)  # what has not begun need not run
            self._submitted.put(None)
            if not is_own:
                thread.join()
        _drain(self._finished)
        self._num_in_flight = 0
        return not is_own


def _run_step(worker: Worker, batch: Batch) -> FinishedStep:
    began_s = time.perf_counter()
    sampled = worker.execute(batch)
    return FinishedStep(batch, sampled, seconds=time.perf_counter() - began_s)


def _drain(queue: SimpleQueue[Any]) -> None:
    with suppress(Empty):
        while True:
            queue.get_nowait()


def _run_steps(worker: Worker, submitted: SimpleQueue[Batch | None], finished: SimpleQueue[FinishedStep]) -> None:
    while (batch := submitted.get()) is not None:
        try:
            step = _run_step(worker, batch)
        except BaseException as error:  # whatever it is, somebody waits for the step
            step = FinishedStep(batch, {}, error)
        finished.put(step)
