"""Dependencies: tasks whose arguments are the results of calls that have not finished yet."""

from __future__ import annotations

from collections.abc import Iterable

import msgspec

from deepserve.protocol.messages import Outcome
from deepserve_controller.core.task import Task


class Dependencies:
    """Which tasks wait for which requests. A task waits in no queue and holds no slot meanwhile.

    A request can only wait for one that was there before it, so there are no circles.
    """

    def __init__(self) -> None:
        self._waiting: dict[str, dict[str, Task]] = {}
        """Tasks by their id, by the request that they wait for."""

    def add(self, task: Task, request_ids: Iterable[str]) -> None:
        task.waits_for = set(request_ids)
        for request_id in task.waits_for:
            self._waiting.setdefault(request_id, {})[task.task_id] = task

    def finished(self, request_id: str) -> list[Task]:
        """The tasks that waited for this request, in the order in which they came; each has to `settle` it."""
        return list(self._waiting.pop(request_id, {}).values())

    def settle(self, task: Task, request_id: str) -> bool:
        """`task` has this result; True if it was the last one that it waited for."""
        task.waits_for.discard(request_id)
        return not task.waits_for

    def drop(self, task: Task) -> None:
        """`task` ends without what it waits for."""
        for request_id in task.waits_for:
            tasks = self._waiting.get(request_id, {})
            tasks.pop(task.task_id, None)
            if not tasks:
                self._waiting.pop(request_id, None)
        task.waits_for = set()

    def check_invariants(self, unfinished: Iterable[str]) -> None:
        gone = self._waiting.keys() - set(unfinished)
        assert not gone, f"tasks wait for {gone}, which will not come"
        for request_id, tasks in self._waiting.items():
            assert tasks, f"nobody waits for {request_id}"
            for task in tasks.values():
                assert task.state == "waiting" and request_id in task.waits_for, f"{task.task_id}: {task.waits_for}"


def dependency_outcome(outcome: Outcome, request_id: str) -> Outcome:
    """Of a call that will not run: what it was to be given ended so."""
    return msgspec.structs.replace(outcome, dependency=request_id)


def gone_outcome(request_id: str) -> Outcome:
    text = f"an argument is the result of call {request_id}, which is unknown here or was forgotten"
    return Outcome("refused", text, dependency=request_id)


def no_result_outcome(request_id: str, kind: str) -> Outcome:
    text = f"an argument is the result of call {request_id}, which is a {kind} and has no single result"
    return Outcome("refused", text, dependency=request_id)
