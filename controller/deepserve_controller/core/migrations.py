"""Migrations: running sequences that move to another pod while they go on (ServerlessLLM 2.4).

The destination prefills what is journaled of the sequence, and again what came meanwhile, until the gap is small. Then
the source lets the sequence go with its last tokens, and the task is assigned to the destination like one whose pod was
lost: it goes on behind its journal, whose keys and values are there.
"""

from __future__ import annotations

import msgspec

from deepserve.protocol.model_io import JOURNAL_TOKEN_BYTES
from deepserve_controller.core import events
from deepserve_controller.core.actions import Action, Notify, SendPrepare, SendRelease
from deepserve_controller.core.dispatcher import Dispatcher
from deepserve_controller.core.function_queue import ExecutorRecord
from deepserve_controller.core.job_book import JobBook
from deepserve_controller.core.migration_views import DecideMigration, MigrationRound
from deepserve_controller.core.placement_views import PodWork
from deepserve_controller.core.retrying import Retrying
from deepserve_controller.core.stopping import Stopping
from deepserve_controller.core.task import Task


class Migration(msgspec.Struct, eq=False):
    """journal_bytes: of the task when this round began. last_gap: of the round before, in tokens."""

    task: Task
    attempt: int
    target_id: str
    reason: str
    round: int = 1
    journal_bytes: int = 0
    last_gap: int = 0
    is_swapping: bool = False

    @property
    def gap(self) -> int:
        """Tokens that have come since the round began, at most."""
        return (self.task.journal_bytes - self.journal_bytes) // JOURNAL_TOKEN_BYTES


class Migrations:
    """Only what has a journal moves. The source keeps its sequence until the swap: whatever goes wrong before, it goes
    on there.

    - The source ends it first: there is nothing to move.
    - The source dies: another attempt begins, as after any loss.
    - The destination dies, or cannot prefill: the sequence stays; after the swap has begun it goes to any pod.
    - It is cancelled, or its time is over: it ends where it is.
    """

    def __init__(
        self,
        dispatcher: Dispatcher,
        jobs: JobBook,
        retrying: Retrying,
        stopping: Stopping,
        out: list[Action],
        decide: DecideMigration,
    ) -> None:
        self._dispatcher = dispatcher
        self._stopping = stopping
        self._jobs = jobs
        self._retrying = retrying
        self._out = out
        self._decide = decide
        self._running: dict[str, Migration] = {}
        """By task id."""

    def __len__(self) -> int:
        return len(self._running)

    def give_away(self, pod_id: str) -> None:
        """The pod is to go: its sequences move to where there is room; what finds none stays until there is some."""
        for task in self._dispatcher.executors.tasks_on(pod_id):
            self._give_away(task)

    def note_progress(self, task: Task) -> None:
        """It has a journal now, or a longer one."""
        if task.executor is not None and task.executor.is_draining:
            self._give_away(task)

    def on_asked(self, event: events.MoveAsked, now_s: float) -> None:
        """Somebody wants the task elsewhere; on the pod that is named, or where there is most room."""
        task = self._jobs.task(event.task_id)
        if task is None or task.executor is None:
            return
        if event.target_id:
            self.begin(task, event.target_id, event.reason)
        elif target_id := self._roomiest(task.executor):
            self.begin(task, target_id, event.reason)

    def begin(self, task: Task, target_id: str, reason: str) -> None:
        target = self._target(task, target_id)
        if target is None or not self._is_movable(task) or task.task_id in self._running:
            return
        migration = Migration(task, task.attempt, target_id, reason)
        self._running[task.task_id] = migration
        self._prepare(migration)

    def on_work_asked(self, event: events.WorkAsked, now_s: float) -> None:
        """What the pods are at: whether that can go on elsewhere, and what it would cost."""
        found = {pod_id: work for pod_id in event.pod_ids if (work := self._work_on(pod_id, now_s)) is not None}
        self._out.append(Notify(events.WorkTold(event.function_id, found)))

    def on_prepared(self, event: events.TaskPrepared, now_s: float) -> None:
        migration = self._current(event.task_id)
        if migration is None or (migration.target_id, migration.round) != (event.pod_id, event.round):
            return
        if event.error:
            migration.task.is_settled = True
            del self._running[event.task_id]
            return
        gap = migration.gap
        step = self._decide(MigrationRound(migration.round, gap, migration.last_gap))
        migration.reason = f"{migration.reason}; {step.reason}"
        if step.is_swap:
            migration.is_swapping = True
            self._out.append(SendRelease(migration.task.pod_id, event.task_id, migration.attempt))
        else:
            migration.round, migration.last_gap = migration.round + 1, gap
            self._prepare(migration)

    def on_released(self, event: events.TaskReleased, now_s: float) -> None:
        """Its pod has let it go: on to the destination, or to any pod where that is gone."""
        task = self._jobs.task(event.task_id)
        if task is None or task.attempt != event.attempt or not task.is_on_pod:
            return
        migration = self._running.pop(task.task_id, None)
        if task.state == "stopping":
            return self._stopping.end(task, "cooperatively", now_s)
        self._retrying.leave_pod(task, now_s)
        task.move("queued")
        if migration is not None and self._target(task, migration.target_id) is not None:
            self._dispatcher.assign_to(task, migration.target_id, migration.reason, now_s)
        else:
            self._dispatcher.enqueue(task, now_s, first=True)

    def drop_ended(self) -> None:
        """Those whose sequence is not where it was, or whose destination is gone before the swap."""
        for task_id, migration in list(self._running.items()):
            task = migration.task
            has_left = task.state != "running" or task.attempt != migration.attempt
            if has_left or (not migration.is_swapping and self._target(task, migration.target_id) is None):
                del self._running[task_id]

    def check_invariants(self) -> None:
        for task_id, migration in self._running.items():
            task = migration.task
            assert task.task_id == task_id and task.attempt == migration.attempt and task.state == "running", task_id
            assert task.pod_id != migration.target_id, f"{task_id} moves to where it is"

    # --- inside ---------------------------------------------------------------------------------------

    @staticmethod
    def _is_movable(task: Task) -> bool:
        return task.state == "running" and task.journal_bytes > 0 and not task.is_settled

    def _work_on(self, pod_id: str, now_s: float) -> PodWork | None:
        tasks = self._dispatcher.executors.tasks_on(pod_id)
        if not tasks:
            return None
        function = tasks[0].function
        others = (each for each in function.routable.values() if each.pod_id != pod_id)
        means_s = [function.run_times.mean_s(task.method) for task in tasks]
        return PodWork(
            tasks=len(tasks),
            tokens=sum(task.journal_bytes // JOURNAL_TOKEN_BYTES + task.num_prompt_tokens for task in tasks),
            is_movable=all(self._is_movable(task) for task in tasks),
            mean_s=sum(means_s) / len(tasks) if all(means_s) else 0.0,
            longest_s=max(now_s - task.assigned_s for task in tasks),
            prompt_tokens_per_s=function.engines.pace.prompt_tokens_per_s if function.engines is not None else 0.0,
            room=sum(max(0, each.slots - each.load) for each in others),
        )

    def _prepare(self, migration: Migration) -> None:
        task = migration.task
        migration.journal_bytes = task.journal_bytes
        self._out.append(
            SendPrepare(
                migration.target_id, task.task_id, migration.round, task.job.request_id, task.method, task.payload
            )
        )

    def _current(self, task_id: str) -> Migration | None:
        migration = self._running.get(task_id)
        return migration if migration is not None and not migration.is_swapping else None

    def _target(self, task: Task, pod_id: str) -> ExecutorRecord | None:
        return task.function.routable.get(pod_id) if pod_id != task.pod_id or task.executor is None else None

    def _give_away(self, task: Task) -> None:
        executor = task.executor
        if executor is not None and task.task_id not in self._running and (target_id := self._roomiest(executor)):
            self.begin(task, target_id, f"{executor.pod_id} is to go")

    def _roomiest(self, executor: ExecutorRecord) -> str:
        """Of the other pods of its function; empty where none has room beyond what is on its way there."""
        room = {each.pod_id: each.slots - each.load for each in executor.function.routable.values()}
        room.pop(executor.pod_id, None)
        for migration in self._running.values():
            if migration.target_id in room:
                room[migration.target_id] -= 1
        best = max(room, key=room.__getitem__, default="")
        return best if best and room[best] > 0 else ""
