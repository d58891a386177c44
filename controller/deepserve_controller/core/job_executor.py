"""JobExecutor: turns requests into jobs, jobs into tasks, and gives each task to a pod (DeepServe 2.1, 2.2)."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from random import Random
from typing import Any

from deepserve.protocol.ids import IdAllocator
from deepserve.protocol.messages import Outcome, RequestKind, Timings

from deepserve_controller.core import events
from deepserve_controller.core.actions import Action, FinishItem, FinishRequest, SendCancel, SendCredit
from deepserve_controller.core.alarms import NEVER_S, Alarms
from deepserve_controller.core.dispatcher import Dispatcher
from deepserve_controller.core.endings import (
    NO_PAYLOAD,
    cancelled_outcome,
    pod_lost_outcome,
    refused_outcome,
    timeout_outcome,
    with_manner,
)
from deepserve_controller.core.events import Event, Payload
from deepserve_controller.core.function_queue import FunctionQueue
from deepserve_controller.core.job import Job
from deepserve_controller.core.task import Task
from deepserve_controller.core.views import RequestView, RetryDelay, Routing

NUM_RECENT = 1000
OWNER = "job_executor"


class JobExecutor:
    """Changed only through `handle`. Reads no clock and opens no socket.

    Every request that arrives ends in exactly one FinishRequest. What ends a task:

    - its pod's TaskFinished for the current attempt; older attempts are ignored;
    - its time limit: SendCancel, after `grace_s` KillPod; outcome timeout either way. Timeouts are not retried;
    - cancellation of its request: the same way, outcome cancelled whatever the pod then answers;
    - the loss of its pod. Killed for another task: requeued, `system_retries` times. Died by itself: the task may
      have been the cause and may have had side effects, so it ends as pod_lost, unless the user's `retries` allow
      one more attempt or it only computes (model and tokenizer executors: requeued, `system_retries` times).
      A stream that delivered items is never started again.
    """

    def __init__(
        self,
        ids: IdAllocator,
        random: Random,
        routing: Routing,
        retry_delay: RetryDelay,
        grace_s: float = 1.0,
        system_retries: int = 1,
    ) -> None:
        self._ids = ids
        self._random = random
        self._retry_delay = retry_delay
        self._grace_s = grace_s
        self._system_retries = system_retries
        self._out: list[Action] = []
        self._alarms = Alarms(OWNER, self._out)
        self._dispatcher = Dispatcher(routing, self._alarms, self._out)
        self._jobs: dict[str, Job] = {}
        self._tasks: dict[str, Task] = {}
        self._jobs_of_link: dict[str, dict[str, Job]] = {}
        self._orphans: deque[Job] = deque()
        self._recent: deque[Job] = deque(maxlen=NUM_RECENT)
        self._handlers: dict[type[Event], Callable[[Any, float], None]] = {
            events.RequestArrived: self._on_request_arrived,
            events.MapInputArrived: self._on_map_input,
            events.MapInputsEnded: self._on_map_ended,
            events.RequestCancelled: self._on_request_cancelled,
            events.CreditGranted: self._on_credit,
            events.LinkClosed: self._on_link_closed,
            events.TaskProduced: self._on_task_produced,
            events.TaskFinished: self._on_task_finished,
            events.TaskBlocked: self._on_task_blocked,
            events.TaskResumed: self._on_task_resumed,
            events.PodDrainStarted: self._on_pod_drain_started,
            events.FunctionDefined: self._on_function_defined,
            events.FunctionRemoved: self._on_function_removed,
            events.ExecutorReady: self._on_executor_ready,
            events.ExecutorFailed: self._on_executor_failed,
            events.PodLost: self._on_pod_lost,
            events.TimerFired: self._on_timer,
        }

    def handle(self, event: Event, now_s: float) -> list[Action]:
        handler = self._handlers.get(type(event))
        if handler is None:
            return []
        handler(event, now_s)
        while self._orphans:
            self._stop_job(self._orphans.popleft(), cancelled_outcome("its caller ended"), now_s)
        self._dispatcher.report_demand()
        actions = self._out.copy()
        self._out.clear()
        return actions

    def requests_view(self) -> list[RequestView]:
        """Unfinished requests and the last 1000 that finished, in the order of arrival; for status."""
        jobs = [*self._recent, *self._jobs.values()]
        return [job.view() for job in sorted(jobs, key=lambda job: job.arrived_s)]

    # --- requests -------------------------------------------------------------------------------------

    def _on_request_arrived(self, event: events.RequestArrived, now_s: float) -> None:
        """A second arrival of an unfinished request's id is ignored: the first one's outcome will answer it."""
        if event.request_id in self._jobs:
            return
        function = self._dispatcher.function(event.function_id)
        parent = self._tasks.get(event.parent_task_id) if event.parent_task_id else None
        label = function.label if function else event.function_id
        deadline_s = self._deadline_s(parent)
        job = Job(
            event.request_id, self._ids.new("job"), event.link_id, event.function_id, label, event.kind, event.method,
            event.timeout_s, event.keep, now_s, deadline_s, parent,
        )  # fmt: skip
        self._jobs[job.request_id] = job
        self._jobs_of_link.setdefault(job.link_id, {})[job.request_id] = job
        if parent is not None:
            parent.children[job.request_id] = job
            job.parent_request_id = parent.job.request_id
        if function is None or function.is_removed or self._tokenizer_gap(function):
            self._finish_job(job, refused_outcome(event.function_id, function), now_s)
        elif event.parent_task_id and (parent is None or parent.state != "running"):
            self._finish_job(job, cancelled_outcome("its caller ended"), now_s)
        else:
            if deadline_s != NEVER_S:
                job.alarm = self._alarms.set(deadline_s, "deadline", job)
            if event.kind != "map":
                self._open_task(job, function, -1, event.payload, now_s)

    def _deadline_s(self, parent: Task | None) -> float:
        """What is left to the caller is all that its call gets."""
        if parent is None:
            return NEVER_S
        limit = parent.alarm if parent.state == "running" else None
        return min(parent.job.deadline_s, limit.at_s if limit else NEVER_S)

    def _tokenizer_gap(self, function: FunctionQueue) -> bool:
        if function.spec.kind != "model" or not function.spec.tokenizer:
            return False
        tokenizer = self._dispatcher.function(function.spec.tokenizer)
        return tokenizer is None or tokenizer.is_removed

    def _open_task(self, job: Job, function: FunctionQueue, index: int, payload: Payload, now_s: float) -> None:
        """The first task of a request or of a map's input."""
        kind: RequestKind = job.kind
        then: FunctionQueue | None = None
        if function.spec.kind == "model" and function.spec.tokenizer:
            tokenizer = self._dispatcher.function(function.spec.tokenizer)
            assert tokenizer is not None
            function, then, kind = tokenizer, function, "call"
        task = Task(self._ids.new("task"), job, function, kind, job.method, index, payload, now_s, then)
        job.tasks[task.task_id] = task
        self._tasks[task.task_id] = task
        if then is not None:
            self._dispatcher.expect(then, task)
        self._dispatcher.enqueue(task, now_s)

    def _on_map_input(self, event: events.MapInputArrived, now_s: float) -> None:
        job = self._jobs.get(event.request_id)
        if job is None or job.kind != "map" or job.ending is not None or event.index in job.seen_inputs:
            return
        job.seen_inputs.add(event.index)
        function = self._dispatcher.function(job.function_id)
        assert function is not None
        if function.is_removed or self._tokenizer_gap(function):
            self._stop_job(job, refused_outcome(job.function_id, function), now_s)
        else:
            self._open_task(job, function, event.index, event.payload, now_s)

    def _on_map_ended(self, event: events.MapInputsEnded, now_s: float) -> None:
        job = self._jobs.get(event.request_id)
        if job is not None and job.kind == "map" and job.ending is None:
            job.num_inputs = event.count
            if job.is_map_complete:
                self._finish_job(job, Outcome("ok"), now_s)

    def _on_request_cancelled(self, event: events.RequestCancelled, now_s: float) -> None:
        job = self._jobs.get(event.request_id)
        if job is not None:
            self._stop_job(job, cancelled_outcome("by the caller"), now_s)
            if event.force:
                self._kill_pods_of(job, now_s)

    def _on_link_closed(self, event: events.LinkClosed, now_s: float) -> None:
        for job in list(self._jobs_of_link.get(event.link_id, {}).values()):
            if not job.keep:
                self._stop_job(job, cancelled_outcome("its client left"), now_s)

    def _on_credit(self, event: events.CreditGranted, now_s: float) -> None:
        job = self._jobs.get(event.request_id)
        if job is None:
            return
        job.credit += event.items
        for task in job.tasks.values():
            if task.state == "running" and task.kind == "stream":
                self._out.append(SendCredit(task.pod_id, task.task_id, event.items))

    # --- tasks ----------------------------------------------------------------------------------------

    def _on_task_produced(self, event: events.TaskProduced, now_s: float) -> None:
        task = self._tasks.get(event.task_id)
        if task is not None and task.attempt == event.attempt:
            task.has_delivered = True

    def _on_task_blocked(self, event: events.TaskBlocked, now_s: float) -> None:
        if (task := self._tasks.get(event.task_id)) is not None:
            self._dispatcher.block(task, now_s)

    def _on_task_resumed(self, event: events.TaskResumed, now_s: float) -> None:
        if (task := self._tasks.get(event.task_id)) is not None:
            self._dispatcher.resume(task)

    def _on_task_finished(self, event: events.TaskFinished, now_s: float) -> None:
        task = self._tasks.get(event.task_id)
        if task is None or task.attempt != event.attempt or not task.is_on_pod:
            return
        if task.state == "stopping":
            self._end_stopped(task, "stopped cooperatively", now_s, event.run_ms)
        elif event.outcome.kind == "error" and event.may_retry and self._retry(task, now_s):
            pass
        else:
            self._end_task(task, event.outcome, now_s, event.run_ms, event.payload, event.count)

    def _retry(self, task: Task, now_s: float) -> bool:
        """Let the user's retries start `task` again after a delay; False where they do not reach."""
        spec = task.function.spec.retries
        if spec is None or task.user_retries >= spec.max_retries or task.has_delivered or task.function.is_removed:
            return False
        task.user_retries += 1
        self._leave_pod(task, now_s)
        task.move("waiting")
        delay_s = self._retry_delay(spec, task.user_retries, self._random)
        task.alarm = self._alarms.set(now_s + delay_s, "retry", task)
        return True

    def _requeue(self, task: Task, now_s: float) -> bool:
        """Start `task` again at the head of its queue, on the system's account; False where that is used up."""
        if task.system_retries >= self._system_retries or task.has_delivered or task.function.is_removed:
            return False
        task.system_retries += 1
        self._leave_pod(task, now_s)
        task.move("queued")
        self._dispatcher.enqueue(task, now_s, first=True)
        return True

    def _leave_pod(self, task: Task, now_s: float) -> None:
        """End the attempt: no alarm, no slot, no children."""
        if task.alarm is not None:
            self._alarms.cancel(task.alarm)
            task.alarm = None
        if task.children:
            self._orphans.extend(task.children.values())
        if task.executor is not None:
            task.job.note_latest(task)
            self._dispatcher.release(task, now_s)

    def _end_task(
        self,
        task: Task,
        outcome: Outcome,
        now_s: float,
        run_ms: float = 0.0,
        payload: Payload = NO_PAYLOAD,
        count: int = 0,
    ) -> None:
        """Take `task` out of everything, then see what its job does next."""
        job = task.job
        timings = self._timings(task, run_ms, now_s)
        if task.state == "queued":
            self._dispatcher.withdraw(task)
        task.move("finished")
        self._leave_pod(task, now_s)
        if task.then is not None:
            self._dispatcher.stop_expecting(task.then, task)
        task.payload = NO_PAYLOAD
        del self._tasks[task.task_id]
        del job.tasks[task.task_id]
        if job.ending is not None:
            if not job.tasks:
                ending = with_manner(job.ending, job.manner)
                self._finish_job(job, ending, now_s, job.ending_payload, job.num_done, timings)
        elif outcome.is_ok and task.then is not None:
            self._follow(task, payload, now_s)
        elif job.kind == "map":
            job.num_done += 1
            self._out.append(FinishItem(job.request_id, job.link_id, task.index, outcome, timings, payload))
            if job.is_map_complete:
                self._finish_job(job, Outcome("ok"), now_s, NO_PAYLOAD, job.num_done, timings)
        else:
            self._finish_job(job, outcome, now_s, payload, count, timings)

    def _end_stopped(self, task: Task, manner: str, now_s: float, run_ms: float = 0.0) -> None:
        """`task` was told to stop and did, in this `manner`: it ends as decided, whatever the pod answered."""
        assert task.stop_outcome is not None
        if task.job.manner != "pod killed":
            task.job.manner = manner
        self._end_task(task, with_manner(task.stop_outcome, manner), now_s, run_ms)

    def _follow(self, done: Task, payload: Payload, now_s: float) -> None:
        """The tokenise task gave token ids: generate with them."""
        job, function = done.job, done.then
        assert function is not None
        if function.is_removed:
            self._finish_job(job, refused_outcome(job.function_id, function), now_s)
            return
        task = Task(self._ids.new("task"), job, function, job.kind, done.method, done.index, payload, now_s)
        job.tasks[task.task_id] = task
        self._tasks[task.task_id] = task
        self._dispatcher.enqueue(task, now_s)

    def _stop_task(self, task: Task, outcome: Outcome, now_s: float) -> None:
        """End a task that waits; ask the pod of one that runs, which has `grace_s` to obey."""
        if task.state == "stopping":
            return
        task.stop_outcome = outcome
        if task.state != "running":
            self._end_task(task, outcome, now_s)
            return
        task.move("stopping")
        if task.alarm is not None:
            self._alarms.cancel(task.alarm)
        task.alarm = self._alarms.set(now_s + self._grace_s, "grace", task)
        self._out.append(
            SendCancel(task.pod_id, task.task_id, task.attempt, "timeout" if outcome.kind == "timeout" else "cancelled")
        )
        self._orphans.extend(task.children.values())

    def _stop_job(self, job: Job, outcome: Outcome, now_s: float, payload: Payload = NO_PAYLOAD) -> None:
        """End `job` with `outcome` as soon as none of its tasks runs any more."""
        if job.ending is not None or job.outcome is not None:
            return
        job.ending, job.ending_payload = outcome, payload
        if not job.tasks:
            self._finish_job(job, outcome, now_s, payload, job.num_done)
        for task in list(job.tasks.values()):
            self._stop_task(task, outcome, now_s)

    def _finish_job(
        self,
        job: Job,
        outcome: Outcome,
        now_s: float,
        payload: Payload = NO_PAYLOAD,
        count: int = 0,
        timings: Timings | None = None,
    ) -> None:
        if timings is None:
            timings = Timings(job_id=job.job_id, total_ms=(now_s - job.arrived_s) * 1e3)
        job.outcome, job.finished_s, job.ending_payload = outcome, now_s, NO_PAYLOAD
        if job.alarm is not None:
            self._alarms.cancel(job.alarm)
            job.alarm = None
        del self._jobs[job.request_id]
        of_link = self._jobs_of_link[job.link_id]
        del of_link[job.request_id]
        if not of_link:
            del self._jobs_of_link[job.link_id]
        if job.parent is not None:
            job.parent.children.pop(job.request_id, None)
            job.parent = None
        job.seen_inputs.clear()
        self._recent.append(job)
        self._out.append(FinishRequest(job.request_id, job.link_id, outcome, timings, payload, count, job.keep))

    def _timings(self, task: Task, run_ms: float, now_s: float) -> Timings:
        """A map's items count from their own arrival, everything else from the request's."""
        job = task.job
        arrived_s = task.arrived_s if job.kind == "map" else job.arrived_s
        last_s = task.assigned_s if task.attempt else now_s
        job.note_latest(task)
        return Timings(
            job.job_id, task.task_id, task.pod_id or job.last_pod_id, task.attempt,
            (last_s - arrived_s) * 1e3, run_ms, (now_s - arrived_s) * 1e3,
        )  # fmt: skip

    # --- functions and pods ---------------------------------------------------------------------------

    def _on_function_defined(self, event: events.FunctionDefined, now_s: float) -> None:
        self._dispatcher.define(event.function_id, event.spec)

    def _on_function_removed(self, event: events.FunctionRemoved, now_s: float) -> None:
        """What runs may end; what waits never gets a pod again."""
        function = self._dispatcher.function(event.function_id)
        if function is None or function.is_removed:
            return
        function.is_removed = True
        for task in self._tasks_not_started(function):
            self._stop_job(task.job, refused_outcome(event.function_id, function), now_s)

    def _tasks_not_started(self, function: FunctionQueue) -> list[Task]:
        """Tasks that wait for a pod of `function` or, one step before, for token ids to give it."""
        waiting = [task for task in self._tasks.values() if task.function is function and task.state == "waiting"]
        return [*function.waiting.values(), *function.expected.values(), *waiting]

    def _on_executor_ready(self, event: events.ExecutorReady, now_s: float) -> None:
        self._dispatcher.add_executor(event.pod_id, event.function_id, event.slots, now_s)

    def _on_executor_failed(self, event: events.ExecutorFailed, now_s: float) -> None:
        """The error would repeat, so everything that waits gets it, unless other pods of the function do work."""
        function = self._dispatcher.function(event.function_id)
        if function is None or function.routable:
            return
        outcome = Outcome("startup_failed", event.text)
        for task in [*function.waiting.values(), *function.expected.values()]:
            if task.job.kind == "map" and task.state == "queued":
                self._end_task(task, outcome, now_s, payload=event.payload)
            else:
                self._stop_job(task.job, outcome, now_s, event.payload)

    def _on_pod_drain_started(self, event: events.PodDrainStarted, now_s: float) -> None:
        self._dispatcher.drain(event.pod_id)

    def _on_pod_lost(self, event: events.PodLost, now_s: float) -> None:
        for task in self._dispatcher.forget_pod(event.pod_id):
            is_pure = task.function.spec.kind in ("model", "tokenizer")
            if task.state == "stopping":
                self._end_stopped(task, "pod lost", now_s)
            elif not (is_pure and self._requeue(task, now_s)) and not self._retry(task, now_s):
                self._end_task(task, pod_lost_outcome(event.pod_id, event.reason, event.exit_code), now_s)

    def _kill_pods_of(self, job: Job, now_s: float) -> None:
        for task in list(job.tasks.values()):
            if task.state == "stopping" and task.executor is not None:
                self._kill_pod(task.pod_id, f"{task.task_id} had to be stopped", now_s)

    def _kill_pod(self, pod_id: str, reason: str, now_s: float) -> None:
        """End the tasks that were told to stop; the others on the pod are not to blame and run again elsewhere."""
        for task in self._dispatcher.kill(pod_id, reason):
            if task.state == "stopping":
                self._end_stopped(task, "pod killed", now_s)
            elif not self._requeue(task, now_s):
                self._end_task(task, Outcome("pod_lost", f"{pod_id} was killed: {reason}"), now_s)

    def _on_timer(self, event: events.TimerFired, now_s: float) -> None:
        for kind, subject in self._alarms.take_due(event.key, now_s):
            if kind == "deadline":
                subject.alarm = None
                left_s = subject.deadline_s - subject.arrived_s
                self._stop_job(subject, timeout_outcome(left_s, "the time left to its caller"), now_s)
            elif subject.alarm is not None:
                subject.alarm = None
                self._on_task_alarm(kind, subject, now_s)

    def _on_task_alarm(self, kind: str, task: Task, now_s: float) -> None:
        if kind == "limit":
            limit_s = task.job.timeout_s or task.function.spec.timeout_s
            self._stop_task(task, timeout_outcome(limit_s, "its time limit"), now_s)
        elif kind == "grace":
            self._kill_pod(task.pod_id, f"{task.task_id} did not stop within {self._grace_s:g} s", now_s)
        else:
            task.move("queued")
            self._dispatcher.enqueue(task, now_s)

    # --- checks ---------------------------------------------------------------------------------------

    def check_invariants(self) -> None:
        self._alarms.check_invariants()
        self._dispatcher.check_invariants()
        for request_id, job in self._jobs.items():
            assert job.outcome is None, f"{request_id} has an outcome but is not finished"
            assert job.tasks or job.kind == "map", f"{request_id} has no task and is not finished"
            assert not (job.ending and not job.tasks), f"{request_id} has stopped but is not finished"
            for task in job.tasks.values():
                assert self._tasks.get(task.task_id) is task, f"{task.task_id} of {request_id} is not known"
        for task_id, task in self._tasks.items():
            assert task.job.tasks.get(task_id) is task, f"{task_id} belongs to no unfinished job"
            assert task.is_on_pod == (task.executor is not None), f"{task_id} is {task.state} on '{task.pod_id}'"
            if task.state == "queued":
                assert task_id in task.function.waiting, f"{task_id} is queued in no queue"
            if task.state in ("waiting", "stopping"):
                assert task.alarm is not None, f"{task_id} is {task.state} without an alarm"
