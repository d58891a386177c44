"""Faults that a test orders (`deepserve.testing`): the pod of the n-th task that starts from now on dies, one of the
two pods of the n-th move, or this controller in the middle of it."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import count
from typing import Literal

import msgspec

Victim = Literal["pod", "controller"]
When = Literal["start", "end", "prepare", "release", "released"]
MOMENTS: dict[Victim, tuple[When, ...]] = {
    "pod": ("start", "end", "prepare", "release"),
    "controller": ("prepare", "release", "released"),
}


class KillOrder(msgspec.Struct):
    """Of a pod, `start`: it is killed in place of being given the task; `end`: when its outcome is there, which is
    lost; `prepare`: in place of prefilling what is to move to it; `release`: in place of letting go what moves from it.

    Of the controller, `prepare`: once it has asked for the prefill; `release`: when that is done, in place of asking to
    let go; `released`: when that is done, too, before anything follows from it."""

    step: int
    when: When
    victim: Victim = "pod"
    num_started: int = 0
    task_id: str = ""
    """The task that is meant, once it has started."""
    pod_id: str = ""
    """The pod that was killed."""

    @property
    def reason(self) -> str:
        return f"a test killed it at the {self.when} of step {self.step}"


class Faults:
    """Counts starts of tasks, of every attempt, as they are sent to pods: no clock decides."""

    def __init__(self) -> None:
        self._ids = count(1)
        self._orders: dict[int, KillOrder] = {}

    def order(self, step: int, when: When, victim: Victim = "pod") -> int:
        order_id = next(self._ids)
        self._orders[order_id] = KillOrder(step, when, victim)
        return order_id

    def withdraw(self, order_id: int) -> KillOrder | None:
        return self._orders.pop(order_id, None)

    def at_start(self, task_id: str, pod_id: str) -> str:
        """Why the pod must die rather than take the task; empty where it need not."""
        for order in self._counted("pod", "start", "end"):
            if order.num_started == order.step:
                order.task_id = task_id
                if order.when == "start":
                    order.pod_id = pod_id
                    return order.reason
        return ""

    def at_move(self, when: When, pod_id: str) -> str:
        """Why the pod must die rather than prepare or release a sequence; empty where it need not."""
        for order in self._counted("pod", when):
            if order.num_started == order.step:
                order.pod_id = pod_id
                return order.reason
        return ""

    def kills_controller(self, when: When) -> bool:
        """Whether this process must die now."""
        return any(order.num_started == order.step for order in self._counted("controller", when))

    def _counted(self, victim: Victim, *when: When) -> Iterator[KillOrder]:
        """The orders that this happens to, with one more on their counts."""
        for order in self._orders.values():
            if order.victim == victim and order.when in when:
                order.num_started += 1
                yield order

    def at_end(self, task_id: str, pod_id: str) -> str:
        """Why the pod must die and the task's outcome be lost; empty where it need not."""
        for order in self._orders.values():
            if order.when == "end" and order.task_id == task_id and not order.pod_id:
                order.pod_id = pod_id
                return order.reason
        return ""
