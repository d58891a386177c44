"""JobEndings: how tasks and jobs end, and what a task's end makes of its job."""

from __future__ import annotations

from collections import deque

from deepserve.protocol.ids import IdAllocator
from deepserve.protocol.messages import Outcome, Stopped, Timings
from deepserve_controller.core.actions import Action, FinishItem, FinishRequest
from deepserve_controller.core.alarms import Alarms
from deepserve_controller.core.chunk import Chunk
from deepserve_controller.core.dependencies import Dependencies
from deepserve_controller.core.dispatcher import Dispatcher
from deepserve_controller.core.endings import stopped_outcome
from deepserve_controller.core.events import NO_PAYLOAD, Payload
from deepserve_controller.core.function_queue import FunctionQueue
from deepserve_controller.core.job import Job
from deepserve_controller.core.job_book import JobBook
from deepserve_controller.core.maps import Maps
from deepserve_controller.core.retrying import Retrying
from deepserve_controller.core.stopping import Stopping
from deepserve_controller.core.task import Task


class JobEndings:
    """A part of the job executor: whatever ends comes here, and every job ends in one FinishRequest."""

    stopping: Stopping
    maps: Maps
    """Set by who assembles the parts: they bring what ends here, and are told what is to end."""

    def __init__(
        self,
        ids: IdAllocator,
        jobs: JobBook,
        dispatcher: Dispatcher,
        retrying: Retrying,
        dependencies: Dependencies,
        alarms: Alarms,
        out: list[Action],
    ) -> None:
        self._ids = ids
        self._jobs = jobs
        self._dispatcher = dispatcher
        self._retrying = retrying
        self._dependencies = dependencies
        self.settled: deque[tuple[Task, str, Outcome, Payload]] = deque()
        """Tasks that waited for the result of a request, its id, and how that has finished."""
        self._alarms = alarms
        self._out = out

    def end_task(
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
        timings = task.timings(run_ms, now_s)
        if task.state == "queued":
            self._dispatcher.withdraw(task)
        if task.waits_for:
            self._dependencies.drop(task)
        task.move("finished")
        self._retrying.leave_pod(task, now_s)
        if task.then is not None:
            self._dispatcher.stop_expecting(task.then, task)
        self._jobs.remove_task(task)
        job.run_ms += run_ms
        if job.ending is not None:
            if not job.tasks:
                ending, count = stopped_outcome(job.ending, job.stopped), job.num_done or task.num_produced
                last = timings if job.kind != "map" else None
                self.finish_job(job, ending, now_s, job.ending_payload, count, last)
        elif outcome.is_ok and task.then is not None:
            self._open_next_task(task, task.then, payload, now_s)
        elif job.kind == "map":
            if not isinstance(task, Chunk):  # whose inputs have ended one by one
                job.num_done += 1
                self._out.append(FinishItem(job.request_id, job.link_id, task.index, outcome, timings, payload))
            self.finish_if_complete(job, now_s)
        else:
            self.finish_job(job, outcome, now_s, payload, task.num_produced or count, timings)

    def finish_if_complete(self, job: Job, now_s: float) -> None:
        if job.is_map_complete:
            self.finish_job(job, Outcome("ok"), now_s, NO_PAYLOAD, job.num_done)

    def stop_job(self, job: Job, outcome: Outcome, now_s: float, payload: Payload = NO_PAYLOAD) -> None:
        """End `job` with `outcome` as soon as none of its tasks runs any more."""
        if job.ending is not None or job.outcome is not None:
            return
        job.ending, job.ending_payload = outcome, payload
        self.maps.drop(job)
        if not job.tasks:
            stopped: Stopped = "while it waited" if job.num_done else "before it began"
            self.finish_job(job, stopped_outcome(outcome, stopped), now_s, payload, job.num_done)
        for task in list(job.tasks.values()):
            self.stopping.ask(task, outcome, now_s)

    def finish_job(
        self,
        job: Job,
        outcome: Outcome,
        now_s: float,
        payload: Payload = NO_PAYLOAD,
        count: int = 0,
        timings: Timings | None = None,
    ) -> None:
        """`timings` of its only task; without them those of the whole job."""
        timings = timings or job.timings(now_s)
        if job.alarm is not None:
            self._alarms.cancel(job.alarm)
            job.alarm = None
        self._jobs.write_off(job, outcome)
        self._out.append(FinishRequest(job.request_id, job.link_id, outcome, timings, payload, count, job.keep))
        for task in self._dependencies.finished(job.request_id):
            self.settled.append((task, job.request_id, outcome, payload))

    def _open_next_task(self, done: Task, function: FunctionQueue, payload: Payload, now_s: float) -> None:
        """The tokenise task gave token ids: generate with them."""
        task = done.next_task(self._ids.new("task"), function, payload, now_s)
        self._jobs.add_task(task)
        self._dispatcher.enqueue(task, now_s)
