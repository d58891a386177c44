"""Maps: how a map's inputs come to wait, and how they become tasks when a pod has room for some."""

from __future__ import annotations

from collections.abc import Callable
from typing import Protocol

from deepserve.protocol.ids import IdAllocator
from deepserve.protocol.messages import Outcome
from deepserve_controller.core import events
from deepserve_controller.core.actions import Action, FinishItem
from deepserve_controller.core.chunk import Chunk
from deepserve_controller.core.chunk_views import Chunking, MapLoad
from deepserve_controller.core.dispatcher import Dispatcher
from deepserve_controller.core.endings import disordered_outcome, removed_outcome
from deepserve_controller.core.events import Payload
from deepserve_controller.core.function_book import FirstStep, FunctionBook
from deepserve_controller.core.function_queue import FunctionQueue
from deepserve_controller.core.job import Job
from deepserve_controller.core.job_book import JobBook
from deepserve_controller.core.map_inputs import MapInputs, Run
from deepserve_controller.core.task import Task

OpenTask = Callable[[Job, FirstStep, int, Payload, tuple[str, ...], float], Task]
Broken = Callable[[tuple[str, ...]], Outcome | None]


class StopJob(Protocol):
    def __call__(self, job: Job, outcome: Outcome, now_s: float) -> None: ...


class Maps:
    """Inputs wait as ranges over the frames they came in and become tasks one pod's chunk at a time.

    Inputs of models, of batched functions and of those with a `queue_timeout` are tasks from the start: they take two
    tasks, are gathered in the pod, or have a clock each.
    """

    def __init__(
        self,
        ids: IdAllocator,
        jobs: JobBook,
        functions: FunctionBook,
        dispatcher: Dispatcher,
        out: list[Action],
        chunking: Chunking,
        open_task: OpenTask,
        broken: Broken,
        stop_job: StopJob,
    ) -> None:
        self._ids = ids
        self._jobs = jobs
        self._functions = functions
        self._dispatcher = dispatcher
        self._out = out
        self._chunking = chunking
        self._open_task = open_task
        self._broken = broken
        self._stop_job = stop_job
        dispatcher.next_of_map = self._next_task

    # --- inputs arrive --------------------------------------------------------------------------------

    def on_inputs(self, event: events.MapInputsArrived, now_s: float) -> None:
        self._arrive(event.request_id, Run(event.first_index, event.sizes, event.data, event.python, now_s), now_s)

    def on_input(self, event: events.MapInputArrived, now_s: float) -> None:
        """One that came alone goes to its pod alone: its value is in a segment, or it takes the results of calls."""
        run = Run(event.index, [0], b"", "", now_s, event.payload)
        if event.depends_on or event.broken is not None:
            self._arrive_dependent(event, run, now_s)
        else:
            self._arrive(event.request_id, run, now_s)

    def _expect(self, request_id: str, run: Run, now_s: float) -> tuple[Job, FirstStep, Run] | None:
        """The inputs that are new; None where nothing is to be done about them any more."""
        job = self._jobs.get(request_id)
        if job is None or job.kind != "map" or job.ending is not None or run.end_index <= job.num_arrived:
            return None
        if run.first_index > job.num_arrived:
            self._stop_job(job, disordered_outcome(job.num_arrived, run.first_index), now_s)
            return None
        run = run.part(job.num_arrived - run.first_index, len(run))
        job.num_arrived = run.end_index
        step = self._functions.first_step(job.function_id, job.kind)
        if isinstance(step, Outcome):
            self._stop_job(job, step, now_s)
            return None
        return job, step, run

    def _arrive_dependent(self, event: events.MapInputArrived, run: Run, now_s: float) -> None:
        expected = self._expect(event.request_id, run, now_s)
        if expected is None:
            return
        job, step, _ = expected
        broken = event.broken or self._broken(event.depends_on)
        if broken is None:
            self._open_task(job, step, event.index, event.payload, event.depends_on, now_s)
            return
        job.num_done += 1
        timings = job.timings(now_s)
        self._out.append(FinishItem(job.request_id, job.link_id, event.index, broken, timings, event.payload))

    def _arrive(self, request_id: str, run: Run, now_s: float) -> None:
        expected = self._expect(request_id, run, now_s)
        if expected is None:
            return
        job, step, run = expected
        if step.then is not None or not _takes_chunks(step.function):
            for position in range(len(run)):
                self._open_task(job, step, run.first_index + position, run.payload(position), (), now_s)
        else:
            if job.inputs is None:
                job.inputs = MapInputs(job, step.function)
            job.inputs.put(run)
            self._dispatcher.enqueue_map(job.inputs, now_s)

    def put_back(self, job: Job, function: FunctionQueue, run: Run, now_s: float) -> None:
        """Inputs that a pod had and did not begin are the next to run."""
        if job.ending is not None or job.outcome is not None or not len(run):
            return
        if function.is_removed:
            return self._stop_job(job, removed_outcome(function.label), now_s)
        assert job.inputs is not None
        job.inputs.put_back(run)
        self._dispatcher.enqueue_map(job.inputs, now_s, first=True)

    # --- inputs leave ---------------------------------------------------------------------------------

    def _next_task(self, inputs: MapInputs) -> Task:
        """For a pod that has room."""
        job, function = inputs.job, inputs.function
        limit_s = job.timeout_s if job.timeout_s > 0.0 else function.spec.timeout_s
        mean_s = function.run_times.mean_s(job.method)
        size = self._chunking(MapLoad(inputs.num_waiting, function.num_slots, mean_s, limit_s))
        run = inputs.take(size.inputs)
        task_id = self._ids.new("task")
        task: Task
        if len(run) > 1:
            task = Chunk.of(task_id, job, function, run)
        else:
            payload = run.payload(0)
            task = Task(task_id, job, function, "map", job.method, run.first_index, payload, run.arrived_s)
        task.reason = f"{len(run)} at once: {size.reason}"
        self._jobs.add_task(task)
        return task

    def drop(self, job: Job) -> None:
        """None of what waits will run."""
        if job.inputs is not None and job.inputs.num_waiting:
            job.inputs.take_all()
            self._dispatcher.withdraw_map(job.inputs)

    def fail_waiting(self, function: FunctionQueue, outcome: Outcome, payload: Payload, now_s: float) -> list[Job]:
        """Every input that waits ends with `outcome`, as its code cannot be loaded. Returns the jobs that they were of,
        which may be complete now."""
        jobs = []
        for inputs in list(function.maps.values()):
            job = inputs.job
            for run in inputs.take_all():
                task = Task("", job, function, "map", job.method, 0, payload, run.arrived_s)
                timings = task.timings(0.0, now_s)
                job.num_done += len(run)
                self._out += [
                    FinishItem(job.request_id, job.link_id, index, outcome, timings, payload)
                    for index in range(run.first_index, run.end_index)
                ]
            self._dispatcher.withdraw_map(inputs)
            jobs.append(job)
        return jobs

    def check_invariants(self) -> None:
        for job in self._jobs:
            waiting = job.inputs.num_waiting if job.inputs is not None else 0
            if job.inputs is not None:
                job.inputs.check_invariants()
                is_queued = job.request_id in job.inputs.function.maps
                assert is_queued == bool(waiting), f"{job.request_id}: {waiting} inputs wait, queued: {is_queued}"
            if job.kind == "map" and job.ending is None:
                num_known = job.num_done + waiting + sum(task.num_left for task in job.tasks.values())
                assert num_known == job.num_arrived, (
                    f"{job.request_id}: {job.num_arrived} inputs came, {num_known} are done, wait or run"
                )


def _takes_chunks(function: FunctionQueue) -> bool:
    spec = function.spec
    if spec.kind not in ("function", "class") or spec.queue_timeout_s > 0.0:
        return False
    return not spec.scaling.max_batch_size
