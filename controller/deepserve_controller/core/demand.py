"""Demand: which functions have more or less to do than the cluster manager was told, and the telling."""

from __future__ import annotations

from deepserve_controller.core.actions import Action, Notify
from deepserve_controller.core.function_queue import FunctionQueue


class Demand:
    """Told at the end of an event, so that what comes and goes within one costs nothing."""

    def __init__(self, out: list[Action]) -> None:
        self._out = out
        self._touched: dict[str, FunctionQueue] = {}

    def touch(self, function: FunctionQueue) -> None:
        """Something of it has changed, which may be material."""
        self._touched[function.function_id] = function

    def repeat(self, function: FunctionQueue) -> None:
        """Report what is queued even if it is what was reported last: the cluster manager has given up on that."""
        function.reported_queued = function.reported_pods = -1
        self.touch(function)

    def pod_gone(self, function: FunctionQueue) -> None:
        """With the last pod goes what kept the queue alive of a function whose other pods fail to load: ask anew."""
        self.touch(function)
        if not function.routable and (function.waiting or function.maps):
            self.repeat(function)

    def report(self, now_s: float) -> None:
        """Tell the cluster manager what changed materially."""
        if not self._touched:
            return
        for function in self._touched.values():
            if (news := function.demand_news(now_s)) is not None:
                self._out.append(Notify(news))
        self._touched.clear()
