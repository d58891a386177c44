"""Autoscaler: how many pods a function has and why, changed while it runs."""

from __future__ import annotations

from collections.abc import Callable
from datetime import datetime
from typing import Any, NamedTuple

from deepserve._current_client import current_client
from deepserve._definition import Definition
from deepserve._options import UNSET, merge_scaling
from deepserve._query_verb import QueryVerb
from deepserve.errors import InvalidOption, Refused
from deepserve.protocol.specs import Scaling


class AutoscalerSettings(NamedTuple):
    """Bounds in force. scaledown_window: seconds."""

    min_pods: int
    max_pods: int
    buffer_pods: int
    scaledown_window: float


class ScalingDecision(NamedTuple):
    """One change of a function's pods and its reason; what the pods and the demand were then."""

    at: datetime
    from_pods: int
    to_pods: int
    reason: str
    ready: int
    starting: int
    draining: int
    queued: int
    running: int


class FunctionStats(NamedTuple):
    """backlog: inputs that wait for a pod. num_running_inputs, num_total_pods: now. (Modal: `FunctionStats`.)"""

    backlog: int
    num_running_inputs: int
    num_total_pods: int


class Autoscaler:
    """One function's pool of pods: `settings()`, `update(...)`, `history()`, each with an `.aio` twin."""

    def __init__(self, label: str, define: Callable[[], Definition]) -> None:
        self._label = label
        self._define = define
        self.settings = QueryVerb(f"{label}.autoscaler.settings", self._settings)
        self.update = QueryVerb(f"{label}.autoscaler.update", self._update)
        self.history = QueryVerb(f"{label}.autoscaler.history", self._history)

    def _settings(self) -> AutoscalerSettings:
        """What is in force now."""
        return _settings_of(ask_of_function(self._define(), "function")["settings"])

    def _update(
        self,
        *,
        min_pods: int = UNSET,
        max_pods: int | None = UNSET,
        buffer_pods: int = UNSET,
        scaledown_window: float = UNSET,
    ) -> AutoscalerSettings:
        """Change what is given, until the function is deployed again or stopped. Returns what is in force now.

        max_pods=None: the host's default. Pods over the bound take nothing new and end when their inputs have.
        Raises InvalidOption. (Modal: `update_autoscaler`.)
        """
        given = {"min_pods": min_pods, "max_pods": max_pods, "buffer_pods": buffer_pods}
        owner = f"{self._label}.autoscaler.update"
        checked = merge_scaling(Scaling(), owner, {**given, "scaledown_window": scaledown_window})
        body: dict[str, Any] = {name: getattr(checked, name) for name, value in given.items() if value is not UNSET}
        if scaledown_window is not UNSET:
            body["scaledown_window_s"] = checked.scaledown_window_s
        try:
            return _settings_of(ask_of_function(self._define(), "scale", **body))
        except Refused as error:
            raise InvalidOption(f"{owner}: {error}") from None

    def _history(self) -> list[ScalingDecision]:
        """The last decisions, at most 50, oldest first."""
        found = ask_of_function(self._define(), "function")["decisions"]
        return [ScalingDecision(datetime.fromtimestamp(each.pop("at")).astimezone(), **each) for each in found]


def stats_verb(label: str, define: Callable[[], Definition]) -> QueryVerb[[], FunctionStats]:
    """`f.get_current_stats()` and its `.aio` twin."""

    def get_current_stats() -> FunctionStats:
        """How much there is to do for a function, and how many pods do it."""
        answer = ask_of_function(define(), "function")
        num_pods = answer["ready"] + answer["starting"] + answer["draining"]
        return FunctionStats(answer["queued"], answer["running"], num_pods)

    return QueryVerb(f"{label}.get_current_stats", get_current_stats)


def ask_of_function(definition: Definition, name: str, **body: Any) -> dict[str, Any]:
    """Of a deployed function, or of one of this script, which the controller is told of first."""
    client = current_client()
    client.define(definition)
    return client.query(name, {"function_id": definition.function_id, **body})


def _settings_of(found: dict[str, Any]) -> AutoscalerSettings:
    return AutoscalerSettings(
        found["min_pods"], found["max_pods"], found["buffer_pods"], found["scaledown_window_s"]
    )  # fmt: skip
