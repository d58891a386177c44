"""Unstartable: what becomes of all that waits for a function which gets no pod."""

from __future__ import annotations

from collections.abc import Callable
from typing import Protocol

from deepserve.protocol.messages import Outcome
from deepserve_controller.core import events
from deepserve_controller.core.dispatcher import Dispatcher
from deepserve_controller.core.endings import removed_outcome, startup_outcome
from deepserve_controller.core.events import NO_PAYLOAD, Payload
from deepserve_controller.core.function_book import FunctionBook
from deepserve_controller.core.job import Job
from deepserve_controller.core.job_book import JobBook
from deepserve_controller.core.maps import Maps
from deepserve_controller.core.task import EndTask


class StopJob(Protocol):
    def __call__(self, job: Job, outcome: Outcome, now_s: float, payload: Payload = NO_PAYLOAD) -> None: ...


class Unstartable:
    def __init__(
        self,
        functions: FunctionBook,
        jobs: JobBook,
        maps: Maps,
        dispatcher: Dispatcher,
        end_task: EndTask,
        stop_job: StopJob,
        finish_if_complete: Callable[[Job, float], None],
    ) -> None:
        self._functions = functions
        self._jobs = jobs
        self._maps = maps
        self._dispatcher = dispatcher
        self._end_task = end_task
        self._stop_job = stop_job
        self._finish_if_complete = finish_if_complete

    def on_function_removed(self, event: events.FunctionRemoved, now_s: float) -> None:
        """What runs may end; what waits never gets a pod again."""
        function = self._functions.get(event.function_id)
        if function is None or function.is_removed:
            return
        self._functions.remove(function)
        for task in self._jobs.not_started(function):
            self._stop_job(task.job, removed_outcome(function.label), now_s)
        for inputs in list(function.maps.values()):
            self._stop_job(inputs.job, removed_outcome(function.label), now_s)

    def on_executor_failed(self, event: events.ExecutorFailed, now_s: float) -> None:
        """The error would repeat, so everything that waits gets it, unless other pods of the function do work."""
        function = self._functions.get(event.function_id)
        if function is None or function.routable:
            return
        outcome = Outcome("refused", event.text) if event.is_refused else startup_outcome(event.text, event.is_slow)
        for task in [*function.waiting.values(), *function.expected.values()]:
            if task.job.kind != "map":
                self._stop_job(task.job, outcome, now_s, event.payload)
            elif task.state == "queued":
                self._end_task(task, outcome, now_s, payload=event.payload)
        for job in self._maps.fail_waiting(function, outcome, event.payload, now_s):
            self._finish_if_complete(job, now_s)
        self._dispatcher.demand.repeat(function)
