"""JobExecutor: turns requests into jobs, jobs into tasks, and gives each task to a pod (DeepServe 2.1, 2.2)."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from random import Random
from typing import Any

from deepserve.protocol.ids import IdAllocator
from deepserve.protocol.messages import Outcome
from deepserve_controller.core import events
from deepserve_controller.core.actions import Action
from deepserve_controller.core.alarms import NEVER_S, Alarms
from deepserve_controller.core.chunk_views import Chunking, ChunkSize
from deepserve_controller.core.chunks import Chunks
from deepserve_controller.core.clocks import Clocks
from deepserve_controller.core.dependencies import Dependencies, dependency_outcome, gone_outcome
from deepserve_controller.core.dispatcher import Dispatcher
from deepserve_controller.core.endings import (
    cancelled_outcome,
    miscounted_outcome,
    timeout_outcome,
    too_deep_outcome,
)
from deepserve_controller.core.events import Event, Payload
from deepserve_controller.core.function_book import FirstStep, FunctionBook
from deepserve_controller.core.job import Job
from deepserve_controller.core.job_book import JobBook
from deepserve_controller.core.job_endings import JobEndings
from deepserve_controller.core.losses import Losses
from deepserve_controller.core.maps import Maps
from deepserve_controller.core.migration_views import DecideMigration
from deepserve_controller.core.migrations import Migrations
from deepserve_controller.core.replay import failed_outcome
from deepserve_controller.core.retrying import RetryDelay, Retrying
from deepserve_controller.core.routing_views import ModelRouting, Routing
from deepserve_controller.core.stopping import Stopping
from deepserve_controller.core.task import Task
from deepserve_controller.core.unstartable import Unstartable

OWNER = "job_executor"
Handlers = dict[type[Event], Callable[[Any, float], None]]


class JobExecutor:
    """Changed only through `handle`. Reads no clock and opens no socket.

    Every request that arrives ends in exactly one FinishRequest. What ends a task:

    - its pod's TaskFinished for the current attempt; older attempts are ignored;
    - its time limit, or the cancellation of its request: see Stopping. Timeouts are not retried;
    - the loss of its pod: see Retrying.

    Calls that are nested deeper than `max_depth` are refused: each level holds a thread of a pod.
    """

    def __init__(
        self,
        ids: IdAllocator,
        random: Random,
        routing: Routing,
        retry_delay: RetryDelay,
        migration: DecideMigration,
        grace_s: float = 1.0,
        system_retries: int = 3,
        max_depth: int = 100,
        chunking: Chunking = lambda load: ChunkSize(1, "inputs go alone"),
        model_routing: ModelRouting | None = None,
    ) -> None:
        self._ids = ids
        self._max_depth = max_depth
        self._out: list[Action] = []
        self._alarms = Alarms(OWNER, self._out)
        self._orphans: deque[Job] = deque()
        """Requests that ended tasks have made, to be stopped before the event is done with."""

        # What there is: functions, requests and their tasks, and what waits for whose result.
        self._functions = FunctionBook()
        self.load_of = self._functions.load_of
        self.room_of = self._functions.room_of
        self._jobs = JobBook()
        self._dependencies = Dependencies()

        # To a pod, and to another one.
        self._dispatcher = Dispatcher(self._functions, routing, model_routing, random, self._alarms, self._out)
        self._retrying = Retrying(self._dispatcher, self._alarms, self._orphans, random, retry_delay, system_retries)

        # To an end: a task's, its request's, and those that are told to stop.
        self._endings = JobEndings(
            ids, self._jobs, self._dispatcher, self._retrying, self._dependencies, self._alarms, self._out
        )
        self._stopping = Stopping(
            self._dispatcher, self._retrying, self._alarms, self._orphans, self._out, grace_s, self._endings.end_task
        )

        # Requests of many inputs, and the chunks in which these travel.
        self._maps = Maps(
            ids, self._jobs, self._functions, self._dispatcher, self._out, chunking,
            self._open_first_task, self._broken, self._endings.stop_job,
        )  # fmt: skip
        self._chunks = Chunks(
            ids, self._jobs, self._maps, self._retrying, self._stopping, self._alarms, self._orphans, self._out,
            grace_s, self._endings.end_task, self._on_task_finished,
        )  # fmt: skip
        self._endings.stopping, self._endings.maps = self._stopping, self._maps  # which need it themselves

        # What happens to running tasks: they move, run out of time, lose their pod or never get one.
        self._migrations = Migrations(
            self._dispatcher, self._jobs, self._retrying, self._stopping, self._out, migration
        )
        self._clocks = Clocks(self._stopping, self._dispatcher, self._chunks)
        self._losses = Losses(self._dispatcher, self._chunks, self._stopping, self._retrying, self._endings.end_task)
        self._unstartable = Unstartable(
            self._functions, self._jobs, self._maps, self._dispatcher,
            self._endings.end_task, self._endings.stop_job, self._endings.finish_if_complete,
        )  # fmt: skip
        self._handlers = self._of_requests() | self._of_tasks() | self._of_pods()

    def _of_requests(self) -> Handlers:
        """What callers send."""
        return {
            events.RequestArrived: self._on_request_arrived,
            events.MapInputArrived: self._maps.on_input,
            events.MapInputsArrived: self._maps.on_inputs,
            events.MapInputsEnded: self._on_map_ended,
            events.RequestCancelled: self._on_request_cancelled,
            events.CreditGranted: self._on_credit,
            events.LinkClosed: self._on_link_closed,
        }

    def _of_tasks(self) -> Handlers:
        """What pods tell of tasks and inputs, and what the cluster manager asks about them."""
        return {
            events.TaskProduced: self._on_task_produced,
            events.TaskFinished: self._on_task_finished,
            events.TaskBlocked: self._on_task_blocked,
            events.TaskResumed: self._on_task_resumed,
            events.CancelReceived: self._on_cancel_received,
            events.InputsFinished: self._chunks.on_inputs_finished,
            events.InputFinished: self._chunks.on_input_finished,
            events.InputsReturned: self._chunks.on_inputs_returned,
            events.InputsBegun: self._chunks.on_begun,
            events.TaskPrepared: self._migrations.on_prepared,
            events.TaskReleased: self._migrations.on_released,
            events.MoveAsked: self._migrations.on_asked,
            events.WorkAsked: self._migrations.on_work_asked,
            events.TimerFired: self._on_timer,
        }

    def _of_pods(self) -> Handlers:
        """What becomes of functions and of the pods that serve them."""
        executors = self._dispatcher.executors
        return {
            events.FunctionDefined: self._on_function_defined,
            events.FunctionRemoved: self._unstartable.on_function_removed,
            events.ExecutorReady: self._dispatcher.add_executor,
            events.ExecutorFailed: self._unstartable.on_executor_failed,
            events.EngineReported: executors.engine_reported,
            events.PodDrainStarted: self._on_pod_drain_started,
            events.PodEnding: lambda event, now_s: executors.end(event.pod_id, event.reason),
            events.PodLost: self._losses.on_pod_lost,
            events.PodStartFailed: self._on_pod_start_failed,
        }

    def handle(self, event: Event, now_s: float) -> list[Action]:
        handler = self._handlers.get(type(event))
        if handler is None:
            return []
        handler(event, now_s)
        self._chunks.settle(now_s)
        while self._orphans or self._endings.settled:
            while self._orphans:
                self._endings.stop_job(self._orphans.popleft(), cancelled_outcome("because its caller ended"), now_s)
            if self._endings.settled:
                self._dependency_finished(*self._endings.settled.popleft(), now_s)
        self._migrations.drop_ended()
        self._dispatcher.demand.report(now_s)
        actions = self._out.copy()
        self._out.clear()
        return actions

    # --- requests -------------------------------------------------------------------------------------

    def _on_request_arrived(self, event: events.RequestArrived, now_s: float) -> None:
        """A second arrival of an unfinished request's id is ignored: the first one's outcome will answer it."""
        if self._jobs.get(event.request_id) is not None:
            return
        parent = self._jobs.task(event.parent_task_id) if event.parent_task_id else None
        deadline_s = parent.deadline_s if parent else NEVER_S
        job = Job(
            event.request_id, self._ids.new("job"), event.link_id, event.function_id,
            self._functions.label(event.function_id), event.kind, event.method, event.timeout_s, event.keep,
            now_s, deadline_s, parent, parent.job.depth + 1 if parent else 1,
            event.is_ahead,
        )  # fmt: skip
        broken = event.broken or self._broken(event.depends_on)
        self._jobs.add(job)
        step = self._functions.first_step(event.function_id, event.kind, event.method)
        if isinstance(step, Outcome):
            self._endings.finish_job(job, step, now_s)
        elif job.depth > self._max_depth:
            self._endings.finish_job(job, too_deep_outcome(job.chain(), self._max_depth), now_s)
        elif event.parent_task_id and (parent is None or parent.state != "running"):
            self._endings.finish_job(job, cancelled_outcome("because its caller ended"), now_s)
        elif broken is not None:
            self._endings.finish_job(job, broken, now_s, event.payload)
        else:
            if deadline_s != NEVER_S:
                job.alarm = self._alarms.set(deadline_s, "deadline", job)
            if event.kind != "map":
                self._open_first_task(job, step, -1, event.payload, event.depends_on, now_s)

    def _open_first_task(
        self, job: Job, step: FirstStep, index: int, payload: Payload, depends_on: tuple[str, ...], now_s: float
    ) -> Task:
        task_id = self._ids.new("task")
        task = Task(task_id, job, step.function, step.kind, job.method, index, payload, now_s, step.then)
        self._jobs.add_task(task)
        if depends_on:
            task.state = "waiting"
            self._dependencies.add(task, depends_on)
        else:
            self._enqueue(task, now_s)
        return task

    def _enqueue(self, task: Task, now_s: float) -> None:
        """It has all its arguments."""
        self._dispatcher.enqueue(task, now_s)
        if task.then is not None:
            self._dispatcher.expect(task.then, task)

    def _broken(self, depends_on: tuple[str, ...]) -> Outcome | None:
        """The outcome for what depends on a request that is not there."""
        return next((gone_outcome(request_id) for request_id in depends_on if self._jobs.get(request_id) is None), None)

    def _dependency_finished(
        self, task: Task, request_id: str, outcome: Outcome, payload: Payload, now_s: float
    ) -> None:
        """One result that `task` waited for is there, or will never be."""
        if task.state != "waiting":
            return
        if not outcome.is_ok:
            self._endings.end_task(task, dependency_outcome(outcome, request_id), now_s, payload=payload)
        elif self._dependencies.settle(task, request_id):
            task.move("queued")
            self._enqueue(task, now_s)

    def _on_map_ended(self, event: events.MapInputsEnded, now_s: float) -> None:
        job = self._jobs.get(event.request_id)
        if job is not None and job.kind == "map" and job.ending is None:
            job.num_inputs = event.count
            if event.count != job.num_arrived:
                self._endings.stop_job(job, miscounted_outcome(event.count, job.num_arrived), now_s)
            else:
                self._endings.finish_if_complete(job, now_s)

    def _on_request_cancelled(self, event: events.RequestCancelled, now_s: float) -> None:
        job = self._jobs.get(event.request_id)
        if job is not None:
            self._endings.stop_job(job, cancelled_outcome("by the caller"), now_s)
            if event.force:
                self._stopping.force(job, now_s)

    def _on_link_closed(self, event: events.LinkClosed, now_s: float) -> None:
        for job in self._jobs.of_link(event.link_id):
            if not job.keep:
                self._endings.stop_job(job, cancelled_outcome("because its client left"), now_s)

    def _on_credit(self, event: events.CreditGranted, now_s: float) -> None:
        job = self._jobs.get(event.request_id)
        if job is not None:
            self._dispatcher.flow.granted(job, event, now_s)

    # --- tasks ----------------------------------------------------------------------------------------

    def _on_task_produced(self, event: events.TaskProduced, now_s: float) -> None:
        task = self._jobs.task(event.task_id)
        if task is not None and task.attempt == event.attempt:
            self._dispatcher.flow.produced(task, event, now_s)
            if event.journal_bytes:
                self._migrations.note_progress(task)

    def _on_cancel_received(self, event: events.CancelReceived, now_s: float) -> None:
        task = self._jobs.task(event.task_id)
        if task is not None and task.attempt == event.attempt:
            task.is_stop_received = True

    def _on_task_blocked(self, event: events.TaskBlocked, now_s: float) -> None:
        if (task := self._jobs.task(event.task_id)) is not None:
            self._dispatcher.block(task, now_s)
            self._chunks.recall(task, now_s)

    def _on_task_resumed(self, event: events.TaskResumed, now_s: float) -> None:
        if (task := self._jobs.task(event.task_id)) is not None:
            self._dispatcher.resume(task)

    def _on_task_finished(self, event: events.TaskFinished, now_s: float) -> None:
        task = self._jobs.task(event.task_id)
        if task is None or task.attempt != event.attempt or not task.is_on_pod:
            self._dispatcher.executors.note_freed(event.task_id, event.attempt)
            return
        task.num_reruns += event.num_reruns
        task.prompt = task.prompt or event.prompt
        if task.kind != "stream" or task.function.engines is not None:
            task.function.run_times.learn(task.method, event.run_ms / 1e3)
        if task.state == "stopping":
            self._stopping.end(task, "cooperatively", now_s, event.run_ms)
        elif event.outcome.kind != "error" or not event.may_retry:
            self._endings.end_task(task, event.outcome, now_s, event.run_ms, event.payload, event.count)
        elif not self._retrying.after_error(task, now_s):
            outcome = failed_outcome(task, event.outcome)
            self._endings.end_task(task, outcome, now_s, event.run_ms, event.payload, event.count)

    # --- functions and pods ---------------------------------------------------------------------------

    def _on_function_defined(self, event: events.FunctionDefined, now_s: float) -> None:
        self._functions.define(event.function_id, event.spec)

    def _on_pod_start_failed(self, event: events.PodStartFailed, now_s: float) -> None:
        self._dispatcher.executors.forget_pod(event.pod_id)

    def _on_pod_drain_started(self, event: events.PodDrainStarted, now_s: float) -> None:
        self._dispatcher.executors.drain(event.pod_id)
        self._migrations.give_away(event.pod_id)

    def _on_timer(self, event: events.TimerFired, now_s: float) -> None:
        for kind, subject in self._alarms.due(event.key, now_s):
            if kind == "deadline":
                left_s = subject.deadline_s - subject.arrived_s
                self._endings.stop_job(subject, timeout_outcome(left_s, "the time left to its caller", "caller"), now_s)
            else:
                self._clocks.ran_out(kind, subject, now_s)

    # --- checks ---------------------------------------------------------------------------------------

    def check_invariants(self) -> None:
        self._alarms.check_invariants()
        self._dispatcher.check_invariants()
        self._jobs.check_invariants()
        self._dependencies.check_invariants(self._jobs.ids())
        self._maps.check_invariants()
        self._chunks.check_invariants()
        self._migrations.check_invariants()
