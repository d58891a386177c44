"""RouteLog: why requests of models went to the pods that they went to."""

from __future__ import annotations

import sys
import time
from collections import OrderedDict
from typing import TextIO

import msgspec

from deepserve_controller.core.actions import SendTask

NUM_ROUTES = 1000


class Route(msgspec.Struct, frozen=True):
    """at: Unix time. attempt: counted from 1; later ones follow a lost pod, or a move."""

    request_id: str
    function_id: str
    pod_id: str
    attempt: int
    reason: str
    at: float

    @property
    def text(self) -> str:
        return f"{self.pod_id}: {self.reason}"


class RouteLog:
    """The latest route of each of the latest requests; each is a line of `out`, where there is one.

    out: for people who look for what routing does (`DEEPSERVE_LOG=debug`).
    """

    def __init__(self, out: TextIO | None = None) -> None:
        self._out = out
        self._routes: OrderedDict[str, Route] = OrderedDict()

    @classmethod
    def of_setting(cls, level: str) -> RouteLog:
        return cls(sys.stderr if level == "debug" else None)

    def note(self, action: SendTask) -> None:
        """Of a task that a model's engine gets; other tasks have no reason that is worth telling."""
        if not action.route:
            return
        name = action.request_id
        self._routes[name] = Route(name, action.function_id, action.pod_id, action.attempt, action.route, time.time())
        self._routes.move_to_end(name)
        if len(self._routes) > NUM_ROUTES:
            self._routes.popitem(last=False)
        if self._out is not None:
            told = self._routes[name]
            print(f"deepserve: debug: route of {name}, attempt {told.attempt}: {told.text}", file=self._out, flush=True)

    def text_of(self, request_id: str) -> str:
        """Empty where it is not known, or no more."""
        route = self._routes.get(request_id)
        return route.text if route is not None else ""

    def latest(self, function_id: str, limit: int) -> list[Route]:
        """Of one model, the latest first."""
        found = [route for route in reversed(self._routes.values()) if route.function_id == function_id]
        return found[:limit]
