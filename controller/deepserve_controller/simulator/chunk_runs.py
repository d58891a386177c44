"""ChunkRuns: chunks on simulated pods: inputs run one after the other, a recall takes back what has not begun."""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Callable, Iterator
from dataclasses import dataclass

from deepserve.protocol.messages import Outcome
from deepserve_controller.core import actions, events
from deepserve_controller.simulator.engine import Occurrence

ANSWER_S = 0.0005


@dataclass(frozen=True, slots=True)
class ChunkRun:
    order: actions.SendChunk
    begins_s: list[float]
    """Of each input, if none before it hangs and it is not recalled."""

    def num_begun(self, now_s: float) -> int:
        return bisect_right(self.begins_s, now_s)


class ChunkRuns:
    """`draw_s` says how long an input runs, `raises` whether it does.

    Results are told one by one, at the latest moment at which a pod tells them. What was set for inputs that are
    recalled still happens, and the core ignores it, as it ignores all news of inputs that a pod no longer has.
    """

    def __init__(self, draw_s: Callable[[], float], raises: Callable[[], bool]) -> None:
        self._draw_s = draw_s
        self._raises = raises
        self._runs: dict[str, ChunkRun] = {}

    def start(self, order: actions.SendChunk, now_s: float) -> Iterator[Occurrence]:
        begins_s, at = [], 0
        for position, size in enumerate(order.sizes):
            begins_s.append(now_s)
            duration_s = self._draw_s()
            now_s += duration_s
            data, at = bytes(order.data[at : at + size]), at + size
            yield Occurrence(now_s, self._end(order, position, duration_s * 1e3, data), order.pod_id)
        self._runs[order.task_id] = ChunkRun(order, begins_s)

    def _end(self, order: actions.SendChunk, position: int, run_ms: float, data: bytes) -> events.Event:
        if self._raises():
            outcome = Outcome("error", "ConnectionError")
            return events.InputFinished(order.task_id, order.attempt, position, outcome, run_ms, may_retry=True)
        return events.InputsFinished(order.task_id, order.attempt, position, [len(data)], data, run_ms)

    def forget(self, task_id: str) -> None:
        self._runs.pop(task_id, None)

    def begun_on(self, pod_id: str, now_s: float) -> dict[tuple[str, int], int]:
        """What the page of this pod says."""
        runs = [run for run in self._runs.values() if run.order.pod_id == pod_id]
        return {(run.order.task_id, run.order.attempt): run.num_begun(now_s) for run in runs}

    def recall(self, action: actions.SendRecall, now_s: float) -> Iterator[Occurrence]:
        run = self._runs.get(action.task_id)
        if run is not None:
            yield Occurrence(now_s + ANSWER_S, self._returned(run, now_s), action.pod_id)

    def cancel(self, action: actions.SendCancel, now_s: float) -> Iterator[Occurrence]:
        """The input that runs is interrupted, the rest goes back."""
        run = self._runs.get(action.task_id)
        if run is None:
            return
        returned = self._returned(run, now_s)
        yield Occurrence(now_s + ANSWER_S, returned, action.pod_id)
        stopped = events.InputFinished(
            action.task_id, action.attempt, returned.position - 1, Outcome("cancelled"), 1.0
        )  # fmt: skip
        yield Occurrence(now_s + 2 * ANSWER_S, stopped, action.pod_id)

    def _returned(self, run: ChunkRun, now_s: float) -> events.InputsReturned:
        position = run.num_begun(now_s)
        running_s = now_s - run.begins_s[position - 1]
        return events.InputsReturned(run.order.task_id, run.order.attempt, position, running_s)
