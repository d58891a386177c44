"""Cores: the job executor and the cluster manager as a driver uses them.

What every driver (the service's loop, the simulator, tests) has to keep:

- Actions are carried out in their order, before the next event is given.
- An event for both cores may go to either first; what they tell each other by Notify follows at the same instant.
- `WakeAt(at_s, key)` is answered by `TimerFired(key)` at `at_s` or a little later. A core ignores keys that are not
  its own or are outdated, so timers are never cancelled.
- Every StartPod ends in one PodStartFailed or, whatever happens after (StopPod, KillPod, its own death, connected or
  not), in a PodLost. News of unknown pods, old attempts and finished requests may be repeated; it is ignored.
- A pod may get a StopPod after a KillPod; there is nothing left to do then.
- FinishRequest comes once for each RequestArrived, FinishItem once for each input of a map that came to an end by
  itself; a cancelled map ends without items for the inputs that it stopped. Links may be gone by then.
"""

from __future__ import annotations

from collections.abc import Iterator

from deepserve_controller.core.actions import Action, Notify
from deepserve_controller.core.cluster_manager import ClusterManager
from deepserve_controller.core.events import Event
from deepserve_controller.core.job_executor import JobExecutor

Core = JobExecutor | ClusterManager


class Cores:
    """Gives every event to both cores and hands their Notify actions to the other one, at the same instant.

    What is left for the driver: carry out the returned actions in their order, and for a `WakeAt` give
    `TimerFired(key)` to `handle` at that time (each core ignores the keys of the other).
    """

    def __init__(self, job_executor: JobExecutor, cluster_manager: ClusterManager) -> None:
        self.job_executor = job_executor
        self.cluster_manager = cluster_manager

    def handle(self, event: Event, now_s: float) -> list[Action]:
        """For drivers that carry the actions out afterwards."""
        return list(self.actions(event, now_s))

    def actions(self, event: Event, now_s: float) -> Iterator[Action]:
        """First the cluster manager, then the job executor, then what they tell each other, in that order; to be read
        to its end before the next event.

        Each action may be carried out as it comes. So a task leaves for its pod, and a result for its caller, before
        the cluster manager is told that the pod is busy, or idle: nobody waits for that.
        """
        manager, executor = self.cluster_manager, self.job_executor
        told: list[tuple[Core, Event]] = [(manager, event), (executor, event)]
        for core, news in told:  # grows meanwhile
            other = manager if core is executor else executor
            for action in core.handle(news, now_s):
                if type(action) is Notify:
                    told.append((other, action.event))
                else:
                    yield action

    def check_invariants(self) -> None:
        self.job_executor.check_invariants()
        self.cluster_manager.check_invariants()
