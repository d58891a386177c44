"""Chunks: what becomes of the inputs of a chunk that is on a pod."""

from __future__ import annotations

from collections import deque
from typing import Protocol

from deepserve.protocol.ids import IdAllocator
from deepserve.protocol.messages import Outcome
from deepserve_controller.core import events
from deepserve_controller.core.actions import Action, FinishItem, FinishItems, ForgetChunk, SendRecall
from deepserve_controller.core.alarms import Alarms
from deepserve_controller.core.chunk import Chunk, LastInput
from deepserve_controller.core.endings import pod_killed_outcome, timeout_outcome
from deepserve_controller.core.events import Payload
from deepserve_controller.core.job import Job
from deepserve_controller.core.job_book import JobBook
from deepserve_controller.core.map_inputs import Run
from deepserve_controller.core.maps import Maps
from deepserve_controller.core.retrying import Retrying
from deepserve_controller.core.stopping import Stopping
from deepserve_controller.core.task import EndTask, Task

OK = Outcome("ok")


class TaskFinished(Protocol):
    def __call__(self, event: events.TaskFinished, now_s: float) -> None: ...


class Chunks:
    """An input is never lost, and never run twice without being counted:

    - Results come in order, so what is unfinished is a tail of the chunk, whose first input runs.
    - When nothing is heard of a chunk for some milliseconds, or its running input waits for a call of its own, what
      has not begun is recalled. The pod gives it back in one step; it waits again, uncounted, before all else.
    - The last unfinished input is a task like any other (LastInput): its time limit, its retries, its cancellation.
      So a time limit begins with the news that the input before is done, or with what the pod says in answer to a
      recall: a few milliseconds late, never early.
    - Its pod dies: the input that ran shares its fate as any task does. Inputs before it whose results had not left
      the pod run again on the system's account, those behind it wait again, uncounted. Which one ran is known from the
      page on which the pod notes it (`deepserve.protocol.begun_page`); where it is not known (the pod was killed for
      another task just now), all that may have begun is counted as begun.
    - Its pod does not answer a recall for the time limit and the grace (stopped, or C code holds its interpreter): it
      is killed, and the input that ran is over its time.
    """

    def __init__(
        self,
        ids: IdAllocator,
        jobs: JobBook,
        maps: Maps,
        retrying: Retrying,
        stopping: Stopping,
        alarms: Alarms,
        orphans: deque[Job],
        out: list[Action],
        grace_s: float,
        end_task: EndTask,
        task_finished: TaskFinished,
    ) -> None:
        self._ids = ids
        self._jobs = jobs
        self._maps = maps
        self._retrying = retrying
        self._stopping = stopping
        self._alarms = alarms
        self._orphans = orphans
        self._out = out
        self._grace_s = grace_s
        self._end_task = end_task
        self._task_finished = task_finished
        self._returned: deque[tuple[Chunk | LastInput, Run]] = deque()
        stopping.isolate = self.isolate

    # --- news from the pod ----------------------------------------------------------------------------

    def on_inputs_finished(self, event: events.InputsFinished, now_s: float) -> None:
        chunk, count = self._jobs.task(event.task_id), len(event.sizes)
        if isinstance(chunk, LastInput) and count == 1:
            value = Run(0, event.sizes, event.data, event.python, 0.0).payload(0)
            self._end_last(chunk, event.attempt, event.position, OK, event.run_ms, value, False, now_s)
        if not isinstance(chunk, Chunk) or not self._is_next(chunk, event.attempt, event.position, count):
            return
        job = chunk.job
        first_index = chunk.index + chunk.position
        self._advance(chunk, count, event.run_ms, now_s)
        if job.ending is None:
            job.num_done += count
            timings = chunk.timings(event.run_ms / count, now_s)
            self._out.append(
                FinishItems(
                    job.request_id, job.link_id, first_index, event.sizes, timings, event.python, event.data
                )  # fmt: skip
            )
        self._go_on(chunk, now_s, now_s)

    def on_input_finished(self, event: events.InputFinished, now_s: float) -> None:
        chunk = self._jobs.task(event.task_id)
        if chunk is None:  # it was given up, and its code has ended after all
            freed = events.TaskFinished(event.task_id, event.attempt, event.outcome, event.run_ms)
            self._task_finished(freed, now_s)
        elif isinstance(chunk, LastInput):
            self._end_last(
                chunk, event.attempt, event.position, event.outcome, event.run_ms, event.payload, event.may_retry, now_s
            )
        if not isinstance(chunk, Chunk) or not self._is_next(chunk, event.attempt, event.position, 1):
            return
        job, index = chunk.job, chunk.index + chunk.position
        is_failure = event.outcome.kind == "error" and event.may_retry
        failed = chunk.task_for(self._ids.new("task"), event.position) if is_failure and job.ending is None else None
        self._advance(chunk, 1, event.run_ms, now_s)
        if failed is not None:
            self._jobs.add_task(failed)
        elif job.ending is None:
            job.num_done += 1
            timings = chunk.timings(event.run_ms, now_s)
            self._out.append(FinishItem(job.request_id, job.link_id, index, event.outcome, timings, event.payload))
        self._go_on(chunk, now_s, now_s)
        if failed is not None and not self._retrying.after_error(failed, now_s):
            self._end_task(failed, event.outcome, now_s, event.run_ms, event.payload)

    def on_inputs_returned(self, event: events.InputsReturned, now_s: float) -> None:
        chunk = self._jobs.task(event.task_id)
        if isinstance(chunk, LastInput) and chunk.attempt == event.attempt:
            return self._on_last_returned(chunk, event, now_s)
        chunk = self._chunk(event.task_id, event.attempt)
        if chunk is None or not chunk.position <= event.position <= chunk.end:
            return
        self._give_back(chunk, event.position)
        chunk.news_s = now_s
        self._go_on(chunk, now_s - event.running_s, now_s)

    def _on_last_returned(self, last: LastInput, event: events.InputsReturned, now_s: float) -> None:
        """The recall found less unfinished than when it was sent: one input, which has not begun, or runs."""
        if not last.is_on_pod:
            return
        if event.position > last.position:
            if last.state == "running" and event.running_s > 0.0:
                self._limit(last, now_s - event.running_s)
            return
        self._out.append(ForgetChunk(last.task_id, last.attempt))
        if last.job.ending is not None:
            return self._stopping.end(last, "cooperatively", now_s)
        self._take_back(last, last.run, now_s)

    def on_begun(self, event: events.InputsBegun, now_s: float) -> None:
        self._note_begun(event.task_id, event.attempt, event.count)

    def on_pod_lost(self, event: events.PodLost) -> None:
        """Called before its tasks are looked at."""
        for (task_id, attempt), count in event.begun.items():
            chunk = self._note_begun(task_id, attempt, count)
            if chunk is not None:
                chunk.is_begun_known = True
            last = self._jobs.task(task_id)
            if isinstance(last, LastInput) and last.attempt == attempt:
                last.has_begun = count > last.position

    # --- recalls --------------------------------------------------------------------------------------

    def on_alarm(self, kind: str, chunk: Chunk, now_s: float) -> None:
        """`patience`: it is time to look whether the pod has been heard of. `silent`: it has not answered."""
        chunk.alarm = None
        if kind == "silent":
            return self._kill_silent(chunk, now_s)
        due_s = chunk.news_s + chunk.patience_s
        if now_s < due_s:
            chunk.alarm = self._alarms.set(due_s, "patience", chunk)
        else:
            self.recall(chunk, now_s)

    def recall(self, task: Task, now_s: float) -> None:
        if not isinstance(task, Chunk) or task.is_recalled or task.state != "running":
            return
        task.is_recalled = True
        if task.alarm is not None:
            self._alarms.cancel(task.alarm)
            task.alarm = None
        if task.limit_s > 0.0:
            task.alarm = self._alarms.set(now_s + task.limit_s + self._grace_s, "silent", task)
        self._out.append(SendRecall(task.pod_id, task.task_id, task.attempt))

    def _kill_silent(self, chunk: Chunk, now_s: float) -> None:
        chunk.stop_outcome = timeout_outcome(chunk.limit_s, "its time limit", "run")
        reason = f"{chunk.task_id} did not answer for {chunk.limit_s + self._grace_s:g} s"
        self._stopping.kill(chunk.pod_id, reason, now_s)

    # --- a chunk becomes smaller ----------------------------------------------------------------------

    def isolate(self, task: Task, now_s: float) -> Task | None:
        """Of a chunk that has lost its pod: the input that ran, as a task, in the chunk's place; None where none ran,
        and all wait again."""
        if isinstance(task, Chunk) and task.is_begun_known and task.num_begun <= task.position:
            return self._take_back(task, task.run.part(task.position, task.end), now_s)
        if isinstance(task, LastInput) and not task.has_begun:
            return self._take_back(task, task.run, now_s)
        if not isinstance(task, Chunk):
            return task
        running = min(max(task.num_begun - 1, task.position), task.end - 1)
        if task.is_begun_known:
            self._give_back(task, running + 1)
        others = [position for position in range(task.position, task.end) if position != running]
        lost = [task.task_for(self._ids.new("task"), position) for position in others]
        last = LastInput.of(task, running)
        self._jobs.replace(task, last)
        if last.stop_outcome is not None and last.state == "running":
            last.move("stopping")
        for again in reversed(lost):
            if task.job.ending is None:
                self._jobs.add_task(again)
                if not self._retrying.after_loss(again, False, now_s):
                    self._end_task(again, pod_killed_outcome(task.pod_id, "its result had not left", 1), now_s)
        return last

    def settle(self, now_s: float) -> None:
        """After an event: what was given back waits again."""
        while self._returned:
            chunk, run = self._returned.pop()
            self._maps.put_back(chunk.job, chunk.function, run, now_s)

    def _take_back(self, task: Chunk | LastInput, run: Run, now_s: float) -> Task | None:
        """None of what is left of it has begun: it waits again, unless its job is being stopped."""
        if task.job.ending is not None:
            return task
        task.move("finished")
        self._retrying.leave_pod(task, now_s)
        self._jobs.remove_task(task)
        self._returned.append((task, run))
        return None

    def _give_back(self, chunk: Chunk, position: int) -> None:
        if position < chunk.end:
            self._returned.append((chunk, chunk.run.part(position, chunk.end)))
            chunk.end = position

    def _advance(self, chunk: Chunk, count: int, run_ms: float, now_s: float) -> None:
        chunk.position += count
        chunk.news_s = now_s
        chunk.job.run_ms += run_ms
        chunk.function.run_times.learn(chunk.method, run_ms / 1e3, count)
        if chunk.children:  # made by inputs that have ended: a pod tells of an end before the next input calls
            self._orphans.extend(chunk.children.values())

    def _go_on(self, chunk: Chunk, began_s: float, now_s: float) -> None:
        """`began_s`: when the input that runs now began, at the latest."""
        if chunk.num_left == 1:
            last = LastInput.of(chunk, chunk.position)
            self._jobs.replace(chunk, last)
            if last.state == "running":
                self._limit(last, began_s)
        elif chunk.num_left <= 0:
            self._out.append(ForgetChunk(chunk.task_id, chunk.attempt))
            if chunk.state == "stopping":
                self._stopping.end(chunk, "cooperatively", now_s)
            else:
                self._end_task(chunk, OK, now_s)

    def _limit(self, last: LastInput, began_s: float) -> None:
        """Its time runs since `began_s`."""
        if last.alarm is not None:
            self._alarms.cancel(last.alarm)
        limit_s = last.limit_s
        last.alarm = self._alarms.set(began_s + limit_s, "limit", last) if limit_s > 0.0 else None

    def _end_last(
        self,
        last: LastInput,
        attempt: int,
        position: int,
        outcome: Outcome,
        run_ms: float,
        payload: Payload,
        may_retry: bool,
        now_s: float,
    ) -> None:
        if last.attempt != attempt or last.position != position or not last.is_on_pod:
            return
        self._out.append(ForgetChunk(last.task_id, attempt))
        self._task_finished(
            events.TaskFinished(last.task_id, attempt, outcome, run_ms, payload, may_retry=may_retry), now_s
        )

    def _is_next(self, chunk: Chunk, attempt: int, position: int, count: int) -> bool:
        """News that was repeated is ignored."""
        return chunk.attempt == attempt and chunk.position == position and 0 < count <= chunk.num_left

    def _note_begun(self, task_id: str, attempt: int, count: int) -> Chunk | None:
        chunk = self._chunk(task_id, attempt)
        if chunk is not None:
            chunk.num_begun = max(chunk.num_begun, count)
        return chunk

    def _chunk(self, task_id: str, attempt: int) -> Chunk | None:
        task = self._jobs.task(task_id)
        return task if isinstance(task, Chunk) and task.attempt == attempt else None

    def check_invariants(self) -> None:
        assert not self._returned, "inputs were given back and do not wait"
        for task in self._jobs.tasks():
            if isinstance(task, Chunk):
                assert task.is_on_pod, f"{task.task_id} is a chunk and {task.state}"
                assert 0 <= task.position < task.end <= len(task.run) and task.num_left > 1, f"{task.task_id} is over"
                has_alarm = task.alarm is not None and bool(task.alarm.kind)
                assert has_alarm or task.is_recalled, f"{task.task_id} is a chunk that nobody looks after"
            elif isinstance(task, LastInput):
                assert task.attempt > 1 or task.index >= task.position, f"{task.task_id} is out of its chunk"
