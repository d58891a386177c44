"""Executors: bound pods as the job executor sees them, with the tasks that are on them and the slots these take."""

from __future__ import annotations

from deepserve_controller.core.actions import Action, KillPod, Notify
from deepserve_controller.core.demand import Demand
from deepserve_controller.core.events import EngineReported, ExecutorReady, PodBusy, PodDrained, PodIdle, PodStuck
from deepserve_controller.core.function_book import FunctionBook
from deepserve_controller.core.function_queue import ExecutorRecord
from deepserve_controller.core.task import Task


class Executors:
    """Tells the cluster manager which of them work. Actions are appended to `out`, which the job executor returns."""

    def __init__(self, functions: FunctionBook, demand: Demand, out: list[Action]) -> None:
        self._functions = functions
        self._demand = demand
        self._out = out
        self._executors: dict[str, ExecutorRecord] = {}
        self._stuck: dict[str, ExecutorRecord] = {}
        """By task id: where it still runs, though it ended for its caller."""
        self._ending: set[str] = set()
        """Pods that end by themselves; forgotten when they are lost."""
        self._unwanted: set[str] = set()
        """Pods that were drained before their executor was ready; forgotten when they are lost."""

    def tasks_on(self, pod_id: str) -> list[Task]:
        executor = self._executors.get(pod_id)
        return list(executor.tasks.values()) if executor is not None else []

    def add(self, event: ExecutorReady) -> ExecutorRecord | None:
        """None where it is not wanted: it was drained before, or its function is gone."""
        pod_id, function = event.pod_id, self._functions.get(event.function_id)
        if function is None or pod_id in self._executors or pod_id in self._unwanted:
            return None
        executor = ExecutorRecord(pod_id, function, max(1, event.slots))
        self._executors[pod_id] = executor
        function.set_slots(executor.slots)
        function.add_executor(executor)
        if function.engines is not None:
            function.engines.add(pod_id)
        self._demand.touch(function)
        return executor

    def put_on(self, task: Task, executor: ExecutorRecord) -> None:
        self.take_slot(executor)
        executor.tasks[task.task_id] = task
        task.executor, task.pod_id = executor, executor.pod_id

    def take_off(self, task: Task, executor: ExecutorRecord) -> None:
        task.executor = None
        del executor.tasks[task.task_id]
        if executor.function.engines is not None:
            executor.function.engines.left(executor.pod_id, task.task_id)
        if not task.is_blocked:
            self.give_slot(executor)
        task.is_blocked = False

    def take_slot(self, executor: ExecutorRecord) -> None:
        function = executor.function
        executor.load += 1
        function.running += 1
        if function.demanded_ahead or (function.slots > 1 and function.may_need_other_pods):
            self._demand.touch(function)

    def give_slot(self, executor: ExecutorRecord) -> None:
        function = executor.function
        executor.load -= 1
        function.running -= 1
        if function.demanded_ahead or (function.slots > 1 and function.may_need_other_pods):
            self._demand.touch(function)

    def drain(self, pod_id: str) -> None:
        executor = self._executors.get(pod_id)
        if executor is None:
            self._unwanted.add(pod_id)
            self._out.append(Notify(PodDrained(pod_id)))
            return
        self._close(executor)
        if not executor.tasks:
            self._out.append(Notify(PodDrained(pod_id)))

    def strand(self, task: Task, reason: str) -> None:
        """`task` is about to end for its caller while its code runs on: its pod takes nothing new and dies for it."""
        executor = task.executor
        assert executor is not None
        executor.stuck[task.task_id] = task.attempt
        self._stuck[task.task_id] = executor
        self._close(executor)
        self._out.append(Notify(PodStuck(executor.pod_id, reason)))

    def end(self, pod_id: str, reason: str) -> None:
        """The pod ends by itself: others take its place at once."""
        executor = self._executors.get(pod_id)
        if executor is not None and pod_id not in self._ending:
            self._ending.add(pod_id)
            self._close(executor)
            self._out.append(Notify(PodStuck(pod_id, reason)))

    def is_ending(self, pod_id: str) -> bool:
        return pod_id in self._ending

    def note_freed(self, task_id: str, attempt: int) -> None:
        """Code that did not stop in time has ended after all: with the last such, its pod need not be killed."""
        executor = self._stuck.get(task_id)
        if executor is not None and executor.stuck[task_id] == attempt:
            del executor.stuck[task_id], self._stuck[task_id]

    def kill(self, pod_id: str, reason: str) -> list[Task]:
        """Kill the pod and forget it; returns the tasks that were on it, already taken off."""
        self._out.append(KillPod(pod_id, reason))
        return self._remove(pod_id)

    def forget_pod(self, pod_id: str) -> list[Task]:
        """The pod is gone; returns the tasks that were on it, already taken off."""
        self._unwanted.discard(pod_id)
        self._ending.discard(pod_id)
        return self._remove(pod_id)

    def engine_reported(self, event: EngineReported, now_s: float) -> None:
        if (executor := self._executors.get(event.pod_id)) is not None and executor.function.engines is not None:
            executor.function.engines.reported(event.pod_id, event.report, now_s)
            self._demand.touch(executor.function)

    def tell_busy(self, executor: ExecutorRecord) -> None:
        if not executor.is_told_busy:
            executor.is_told_busy = True
            self._out.append(Notify(PodBusy(executor.pod_id)))

    def tell_empty(self, executor: ExecutorRecord) -> None:
        """Its last task has left it."""
        if executor.stuck:
            self.kill(executor.pod_id, f"{', '.join(executor.stuck)} did not stop, and its other tasks are done")
        elif executor.is_draining:
            self._out.append(Notify(PodDrained(executor.pod_id)))
        elif executor.is_told_busy:
            executor.is_told_busy = False
            self._out.append(Notify(PodIdle(executor.pod_id)))

    # --- inside ---------------------------------------------------------------------------------------

    def _close(self, executor: ExecutorRecord) -> None:
        executor.is_draining = True
        executor.function.routable.pop(executor.pod_id, None)
        self._demand.pod_gone(executor.function)

    def _remove(self, pod_id: str) -> list[Task]:
        executor = self._executors.pop(pod_id, None)
        if executor is None:
            return []
        function = executor.function
        function.routable.pop(pod_id, None)
        if function.engines is not None:
            function.engines.remove(pod_id)
        function.running -= executor.load
        executor.load = 0
        tasks = list(executor.tasks.values())
        executor.tasks.clear()
        for task in tasks:
            task.executor = None
            task.is_blocked = False
        for task_id in executor.stuck:
            del self._stuck[task_id]
        self._demand.pod_gone(function)
        return tasks

    # --- checks ---------------------------------------------------------------------------------------

    def check_invariants(self) -> None:
        for function in self._functions:
            running = 0
            for pod_id, executor in self._executors.items():
                if executor.function is function:
                    self._check_executor(executor)
                    running += executor.load
                    is_routable = pod_id in function.routable
                    assert is_routable != executor.is_draining, f"{pod_id}: routable {is_routable} while draining"
            assert running == function.running, f"{function.label}: {running} slots held, counted {function.running}"
            assert function.routable.keys() <= self._executors.keys(), f"{function.label} routes to lost pods"

    def _check_executor(self, executor: ExecutorRecord) -> None:
        holding = sum(1 for task in executor.tasks.values() if not task.is_blocked)
        assert holding == executor.load, f"{executor.pod_id}: {holding} tasks hold slots, load is {executor.load}"
        for task in executor.tasks.values():
            assert task.is_on_pod and task.executor is executor, f"{task.task_id} on {executor.pod_id} is {task.state}"
        if executor.stuck:
            assert executor.is_draining and executor.tasks, f"{executor.pod_id} lives on with {executor.stuck}"
        for task_id in executor.stuck:
            assert self._stuck.get(task_id) is executor, f"{task_id} is stuck on {executor.pod_id} and not found"
        if executor.tasks and not executor.is_draining:
            assert executor.is_told_busy, f"{executor.pod_id} has tasks but was reported idle"
