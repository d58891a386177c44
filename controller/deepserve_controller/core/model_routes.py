"""ModelRoutes: routes by prompt where that works, and by load alone where it does not."""

from __future__ import annotations

from random import Random

from deepserve_controller.core.engine_book import SLOTS_AHEAD
from deepserve_controller.core.function_queue import FunctionQueue
from deepserve_controller.core.routing_views import ModelRouting, Routed, Routing
from deepserve_controller.core.task import Task


class ModelRoutes:
    """No request fails because routing did: what goes wrong in the policy or its views is said in the reason."""

    def __init__(self, policy: ModelRouting | None, by_load: Routing, random: Random) -> None:
        self._policy = policy
        self._by_load = by_load
        self._random = random

    def route(self, function: FunctionQueue, task: Task | None) -> Routed | None:
        """Where the next task of a model goes; None where no engine has room."""
        assert function.engines is not None
        if not function.routable or task is None or self._policy is None:
            return self._by_load(function.routable.values())
        try:
            is_ahead = task.job.is_ahead
            views = function.engines.views(function.routable.values(), task.prompt, is_ahead)
            routed = self._policy.choose(views, task.prompt, self._random.random())
            if routed is not None:
                executor = function.routable[routed.pod_id]
                if executor.load >= executor.slots * (SLOTS_AHEAD if is_ahead else 1):
                    raise ValueError(f"{routed.pod_id} has no room")
        except Exception as error:
            return self._degraded(function, error)
        return routed if routed is not None else self._by_load(function.routable.values())

    def _degraded(self, function: FunctionQueue, error: Exception) -> Routed | None:
        routed = self._by_load(function.routable.values())
        if routed is None:
            return None
        return Routed(routed.pod_id, f"{routed.reason}; by load alone: {type(error).__name__}: {error}")
