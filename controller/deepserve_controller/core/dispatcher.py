"""Dispatcher: the job executor's half that puts tasks into their function's queue and routes them to bound pods.

It does not know what a task is for: that is the job executor's half.
"""

from __future__ import annotations

from collections.abc import Callable
from random import Random

from deepserve.protocol.credit import Credit
from deepserve_controller.core.actions import Action, SendTask
from deepserve_controller.core.alarms import NEVER_S, Alarms
from deepserve_controller.core.chunk import Chunk
from deepserve_controller.core.demand import Demand
from deepserve_controller.core.events import ExecutorReady
from deepserve_controller.core.executors import Executors
from deepserve_controller.core.function_book import FunctionBook
from deepserve_controller.core.function_queue import FunctionQueue
from deepserve_controller.core.map_inputs import MapInputs
from deepserve_controller.core.model_routes import ModelRoutes
from deepserve_controller.core.routing_views import ModelRouting, Routed, Routing
from deepserve_controller.core.stream_flow import StreamFlow
from deepserve_controller.core.task import Task

NO_CREDIT = Credit(0, 0)


class Dispatcher:
    """Queue -> pod. Actions are appended to `out`, which the job executor returns."""

    def __init__(
        self, functions: FunctionBook, routing: Routing, models: ModelRouting | None, random: Random, alarms: Alarms,
        out: list[Action],
    ) -> None:  # fmt: skip
        self._route = routing
        self._models = ModelRoutes(models, routing, random)
        self._alarms = alarms
        self._out = out
        self._functions = functions
        self.flow = StreamFlow(alarms, out)
        self.demand = Demand(out)
        self.executors = Executors(functions, self.demand, out)
        self.next_of_map: Callable[[MapInputs], Task] | None = None
        """Makes a task of inputs that wait (`Maps`)."""

    # --- tasks ----------------------------------------------------------------------------------------

    def expect(self, function: FunctionQueue, task: Task) -> None:
        """`task`'s result will become a task of `function`. Where it waits for a pod, pods start for both at once
        (DeepServe 2.12). Where a tokenizer has it already, its answer is there before an engine could have started, and
        may be that the request is refused."""
        function.expected[task.task_id] = task
        if not task.is_on_pod:
            function.demanded_ahead[task.task_id] = task
            self.demand.touch(function)

    def stop_expecting(self, function: FunctionQueue, task: Task) -> None:
        function.expected.pop(task.task_id, None)
        if function.demanded_ahead.pop(task.task_id, None) is not None and function.reported_queued:
            self.demand.touch(function)

    def enqueue(self, task: Task, now_s: float, first: bool = False) -> None:
        """Assign `task` now if a pod has room and nobody waits before it, else let it wait."""
        function = task.function
        must_wait = (function.waiting or function.maps) and not (function.engines is not None and task.job.is_ahead)
        if must_wait or not self._try_assign(task, now_s):
            function.push(task, first)
            if function.spec.queue_timeout_s > 0.0:
                task.alarm = self._alarms.set(now_s + function.spec.queue_timeout_s, "queue", task)
            self.demand.touch(function)

    def enqueue_map(self, inputs: MapInputs, now_s: float, first: bool = False) -> None:
        """Some of a map's inputs wait: assign what there is room for."""
        function, request_id = inputs.function, inputs.job.request_id
        function.maps[request_id] = inputs
        if first:
            function.maps.move_to_end(request_id, last=False)
        self.assign_waiting(function, now_s)

    def withdraw_map(self, inputs: MapInputs) -> None:
        """None of a map's inputs wait any more."""
        function = inputs.function
        function.maps.pop(inputs.job.request_id, None)
        self.demand.touch(function)

    def withdraw(self, task: Task) -> None:
        """Take a waiting task out of its queue."""
        task.function.pop(task.task_id)
        self.demand.touch(task.function)

    def release(self, task: Task, now_s: float) -> None:
        """`task` is no longer on its pod: its slot goes to the next in the queue."""
        self.flow.left_pod(task)
        executor = task.executor
        if executor is None:
            return
        self.executors.take_off(task, executor)
        self.assign_waiting(executor.function, now_s)
        if not executor.tasks:
            self.executors.tell_empty(executor)

    def block(self, task: Task, now_s: float) -> None:
        """The task waits for a call of its own: others may use its slot, so recursion goes deeper than `max_pods`."""
        if task.executor is not None and not task.is_blocked:
            task.is_blocked = True
            self.executors.give_slot(task.executor)
            self.assign_waiting(task.function, now_s)

    def resume(self, task: Task) -> None:
        """Takes the slot back at once, also beyond the pod's slots: nothing new comes until the load has fallen."""
        if task.executor is not None and task.is_blocked:
            task.is_blocked = False
            self.executors.take_slot(task.executor)

    def add_executor(self, event: ExecutorReady, now_s: float) -> None:
        """A pod is bound: it takes what waits."""
        if (executor := self.executors.add(event)) is not None:
            self.assign_waiting(executor.function, now_s)

    def assign_waiting(self, function: FunctionQueue, now_s: float) -> None:
        if not function.waiting and not function.maps:
            return
        self.demand.touch(function)
        while function.waiting or function.maps:
            if (routed := self._choose(function, next(iter(function.waiting.values()), None))) is None:
                return
            self._assign(self._take_next(function), routed, now_s)

    def _take_next(self, function: FunctionQueue) -> Task:
        """Tasks and maps take turns, and so do the maps among themselves."""
        if function.maps and (function.is_turn_of_maps or not function.waiting):
            function.is_turn_of_maps = False
            request_id, inputs = next(iter(function.maps.items()))
            assert self.next_of_map is not None
            task = self.next_of_map(inputs)
            if inputs.num_waiting:
                function.maps.move_to_end(request_id)
            else:
                del function.maps[request_id]
            return task
        function.is_turn_of_maps = True
        return function.pop(next(iter(function.waiting)))

    def _try_assign(self, task: Task, now_s: float) -> bool:
        if (routed := self._choose(task.function, task)) is not None:
            self._assign(task, routed, now_s)
        return routed is not None

    def _choose(self, function: FunctionQueue, task: Task | None) -> Routed | None:
        if function.engines is None:
            return self._route(function.routable.values())
        return self._models.route(function, task)

    def assign_to(self, task: Task, pod_id: str, reason: str, now_s: float) -> None:
        """To a routable pod that expects it, also beyond its slots: nothing new comes until the load has fallen."""
        self._assign(task, Routed(pod_id, reason), now_s)

    def _assign(self, task: Task, routed: Routed, now_s: float) -> None:
        function = task.function
        executor = function.routable[routed.pod_id]
        self.executors.put_on(task, executor)
        task.move("running")
        task.reason = f"{routed.reason}; {task.reason}" if task.reason and not task.attempt else routed.reason
        task.attempt += 1
        task.assigned_s = now_s
        if function.engines is not None:
            function.engines.assigned(executor.pod_id, task.task_id, task.prompt, now_s, task.job.is_ahead)
            self.demand.touch(function)
        if task.alarm is not None:
            self._alarms.cancel(task.alarm)
        job = task.job
        limit_s = task.limit_s
        time_left_s = NEVER_S
        if isinstance(task, Chunk):
            task.news_s = now_s
            task.alarm = self._alarms.set(now_s + task.patience_s, "patience", task)
        elif limit_s > 0.0:
            time_left_s = limit_s
            task.alarm = self._alarms.set(now_s + limit_s, "limit", task)
        if job.deadline_s != NEVER_S:
            time_left_s = max(0.001, min(time_left_s, job.deadline_s - now_s))
        self.executors.tell_busy(executor)
        if isinstance(task, Chunk):
            return self._out.append(task.order(time_left_s if time_left_s != NEVER_S else 0.0))
        credit = job.credit if task.kind == "stream" else NO_CREDIT
        self.flow.assigned(task, now_s)
        self._out.append(
            SendTask(
                executor.pod_id,
                task.task_id,
                task.attempt,
                job.request_id,
                job.job_id,
                function.function_id,
                task.kind,
                task.method,
                task.index,
                time_left_s if time_left_s != NEVER_S else 0.0,
                max(0, credit.items),
                task.payload,
                credit.size_bytes,
                function.spec.replay,
                task.num_produced,
                task.reason if function.engines is not None else "",
            )
        )

    # --- checks ---------------------------------------------------------------------------------------

    def check_invariants(self) -> None:
        self.executors.check_invariants()
        for function in self._functions:
            has_room = any(executor.load < executor.slots for executor in function.routable.values())
            is_waited = bool(function.waiting or function.maps)
            assert not (has_room and is_waited), f"{function.label}: tasks wait beside a free slot"
            in_maps = sum(inputs.num_waiting for inputs in function.maps.values())
            assert in_maps == function.num_map_inputs, f"{function.label}: {in_maps} inputs wait in its maps"
            for task in function.waiting.values():
                assert task.state == "queued" and task.executor is None, f"{task.task_id} waits but is {task.state}"
            tokens = sum(task.prompt.num_tokens for task in function.waiting.values() if task.prompt is not None)
            assert tokens == function.queued_tokens, f"{function.label}: {tokens} tokens wait, not what is counted"
            if function.engines is not None:
                function.engines.check_invariants()
            for task in function.expected.values():
                assert task.state not in ("stopping", "finished"), f"{task.task_id} is {task.state} but expected"
            assert function.demanded_ahead.items() <= function.expected.items(), f"{function.label}: demand of nobody"
            is_wanted = bool(is_waited or function.expected)
            assert not (function.is_removed and is_wanted), f"{function.label} was removed, but tasks wait for it"
            queued, _ = function.demand()
            assert bool(queued) == bool(function.reported_queued), (
                f"{function.label}: {queued} queued, the cluster manager knows {function.reported_queued}"
            )
