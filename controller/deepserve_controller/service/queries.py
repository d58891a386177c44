"""Questions and orders outside the call path."""

from __future__ import annotations

import os
import time
from collections.abc import Callable
from typing import Any

from deepserve_controller.errors import QueryError
from deepserve_controller.service.functions import Functions
from deepserve_controller.service.logs import Logs
from deepserve_controller.service.pod_links import PodLinks
from deepserve_controller.service.requests import Requests

VERSION = "0.1.0"


class Queries:
    """One method per query name; bodies are plain dicts."""

    def __init__(self, mode: str, functions: Functions, pods: PodLinks, requests: Requests, logs: Logs) -> None:
        self._mode = mode
        self._functions = functions
        self._pods = pods
        self._requests = requests
        self._logs = logs
        self._started_at = time.time()
        self.on_shutdown: Callable[[], None] | None = None
        self._answers: dict[str, Callable[[dict[str, Any]], dict[str, Any]]] = {"status": self._status}

    def answer(self, name: str, body: dict[str, Any]) -> dict[str, Any]:
        """Raises QueryError."""
        found = self._answers.get(name)
        if found is None:
            raise QueryError("invalid", f"unknown query {name!r}")
        return found(body)

    def _status(self, body: dict[str, Any]) -> dict[str, Any]:
        return {"mode": self._mode, "pid": os.getpid(), "version": VERSION, "uptime_s": time.time() - self._started_at}
