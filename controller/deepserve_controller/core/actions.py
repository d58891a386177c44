"""Orders that the two cores return. A driver carries them out; outcomes come back as events."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal

from deepserve.protocol.messages import Outcome, RequestKind, Timings
from deepserve.protocol.specs import FunctionSpec
from deepserve_controller.core.events import Event, Payload


class Action:
    """Base of all actions; named with a verb."""

    __slots__ = ()


@dataclass(frozen=True, slots=True)
class Notify(Action):
    """Hand `event` to the other core, at the same instant."""

    event: Event


@dataclass(frozen=True, slots=True)
class WakeAt(Action):
    """Give `TimerFired(key)` back to the core that asked, at `at_s`. Timers are not cancelled:
    the core ignores a key that no longer matters."""

    at_s: float
    key: tuple[Any, ...]


# --- of the job executor ----------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class SendTask(Action):
    pod_id: str
    task_id: str
    attempt: int
    request_id: str
    job_id: str
    function_id: str
    kind: RequestKind
    method: str
    index: int
    time_left_s: float
    credit: int
    payload: Payload


@dataclass(frozen=True, slots=True)
class SendCredit(Action):
    pod_id: str
    task_id: str
    items: int


@dataclass(frozen=True, slots=True)
class SendCancel(Action):
    """Ask the pod to stop the task; the grace runs in the job executor, which then kills the pod."""

    pod_id: str
    task_id: str
    attempt: int
    reason: Literal["cancelled", "timeout"]


@dataclass(frozen=True, slots=True)
class FinishRequest(Action):
    """Deliver the outcome to `link_id`; where `keep`, store it first."""

    request_id: str
    link_id: str
    outcome: Outcome
    timings: Timings
    payload: Payload
    count: int
    keep: bool


@dataclass(frozen=True, slots=True)
class FinishItem(Action):
    request_id: str
    link_id: str
    index: int
    outcome: Outcome
    timings: Timings
    payload: Payload


# --- of the cluster manager -------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class StartPod(Action):
    """Lease a pod from the provider: it dials in (PodConnected), or PodStartFailed comes back."""

    pod_id: str
    environment: str
    memory_mib: int
    reason: str


@dataclass(frozen=True, slots=True)
class BindPod(Action):
    """Warm -> bound: the pod answers with ExecutorReady or ExecutorFailed."""

    pod_id: str
    function_id: str
    spec: FunctionSpec
    reason: str


@dataclass(frozen=True, slots=True)
class StopPod(Action):
    """Ask an idle pod to run its exit hooks and end; killed by the provider after `grace_s`."""

    pod_id: str
    reason: str
    grace_s: float


# --- of both --------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class KillPod(Action):
    """SIGKILL the pod's process group now; PodLost comes back."""

    pod_id: str
    reason: str
