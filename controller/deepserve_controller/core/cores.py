"""Cores: the job executor and the cluster manager as a driver uses them."""

from __future__ import annotations

from collections import deque

from deepserve_controller.core.actions import Action, Notify
from deepserve_controller.core.cluster_manager import ClusterManager
from deepserve_controller.core.events import Event
from deepserve_controller.core.job_executor import JobExecutor


class Cores:
    """Gives every event to both cores and hands their Notify actions to the other one, at the same instant.

    What is left for the driver: carry out the returned actions in their order, and for a `WakeAt` give
    `TimerFired(key)` to `handle` at that time (each core ignores the keys of the other).
    """

    def __init__(self, job_executor: JobExecutor, cluster_manager: ClusterManager) -> None:
        self.job_executor = job_executor
        self.cluster_manager = cluster_manager

    def handle(self, event: Event, now_s: float) -> list[Action]:
        """First the cluster manager, then the job executor, then what they tell each other, in that order."""
        actions: list[Action] = []
        told: deque[tuple[bool, Event]] = deque()
        self._collect(self.cluster_manager.handle(event, now_s), True, actions, told)
        self._collect(self.job_executor.handle(event, now_s), False, actions, told)
        while told:
            is_for_jobs, news = told.popleft()
            core: JobExecutor | ClusterManager = self.job_executor if is_for_jobs else self.cluster_manager
            self._collect(core.handle(news, now_s), not is_for_jobs, actions, told)
        return actions

    def check_invariants(self) -> None:
        self.job_executor.check_invariants()
        self.cluster_manager.check_invariants()

    @staticmethod
    def _collect(
        returned: list[Action], is_for_jobs: bool, actions: list[Action], told: deque[tuple[bool, Event]]
    ) -> None:
        for action in returned:
            if type(action) is Notify:
                told.append((is_for_jobs, action.event))
            else:
                actions.append(action)
