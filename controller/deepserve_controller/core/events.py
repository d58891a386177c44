"""Facts given to the two cores. Both take the same events; each ignores what does not concern it.

An event meant for both may be given to either first. `ControllerStarted` was added to the first contract: it lets the
warm pool start before any function is known. What drivers have to keep is written in `core/cores.py`.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from deepserve.protocol.messages import Outcome, RequestKind, Value
from deepserve.protocol.specs import FunctionSpec


@dataclass(frozen=True, slots=True)
class Payload:
    """A user value on its way through: described by `value`, never looked into."""

    value: Value = Value()
    data: bytes = b""


NO_PAYLOAD = Payload()


class Event:
    """Base of all events; named in the past tense."""

    __slots__ = ()


# --- to the job executor ------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class RequestArrived(Event):
    """`link_id` is who gets the outcome; `parent_task_id` the task inside which the call was made."""

    request_id: str
    link_id: str
    function_id: str
    kind: RequestKind = "call"
    method: str = ""
    parent_task_id: str = ""
    timeout_s: float = 0.0
    keep: bool = False
    payload: Payload = Payload()


@dataclass(frozen=True, slots=True)
class MapInputArrived(Event):
    request_id: str
    index: int
    payload: Payload


@dataclass(frozen=True, slots=True)
class MapInputsEnded(Event):
    request_id: str
    count: int


@dataclass(frozen=True, slots=True)
class RequestCancelled(Event):
    request_id: str
    force: bool = False


@dataclass(frozen=True, slots=True)
class CreditGranted(Event):
    request_id: str
    items: int


@dataclass(frozen=True, slots=True)
class LinkClosed(Event):
    """A client left: its requests that are not kept are cancelled."""

    link_id: str


@dataclass(frozen=True, slots=True)
class TaskProduced(Event):
    """A stream item passed through; the service relays the item itself."""

    task_id: str
    attempt: int
    offset: int


@dataclass(frozen=True, slots=True)
class TaskFinished(Event):
    task_id: str
    attempt: int
    outcome: Outcome
    run_ms: float
    payload: Payload = Payload()
    count: int = 0
    may_retry: bool = False


@dataclass(frozen=True, slots=True)
class TaskBlocked(Event):
    task_id: str


@dataclass(frozen=True, slots=True)
class TaskResumed(Event):
    task_id: str


@dataclass(frozen=True, slots=True)
class PodDrainStarted(Event):
    """From the cluster manager: give this pod nothing new."""

    pod_id: str


# --- to the cluster manager ---------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class ControllerStarted(Event):
    """The first event of all: pods of the warm pool may start before any function is known."""


@dataclass(frozen=True, slots=True)
class PodConnected(Event):
    """The pod dialled in: cold -> warm."""

    pod_id: str
    pid: int


@dataclass(frozen=True, slots=True)
class PodStartFailed(Event):
    """The provider could not start it (template failed, fork failed)."""

    pod_id: str
    text: str


@dataclass(frozen=True, slots=True)
class DemandChanged(Event):
    """From the job executor, where queue length or idleness changed materially."""

    function_id: str
    queued: int
    running: int
    oldest_arrival_s: float | None


@dataclass(frozen=True, slots=True)
class PodIdle(Event):
    pod_id: str


@dataclass(frozen=True, slots=True)
class PodBusy(Event):
    pod_id: str


@dataclass(frozen=True, slots=True)
class PodDrained(Event):
    """From the job executor: no task is left on the draining pod."""

    pod_id: str


@dataclass(frozen=True, slots=True)
class ScalingChanged(Event):
    """An order from outside (`autoscaler.update`, deploy): new bounds for a function's pods."""

    function_id: str
    min_pods: int
    max_pods: int


# --- to both ------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class FunctionDefined(Event):
    function_id: str
    spec: FunctionSpec


@dataclass(frozen=True, slots=True)
class FunctionRemoved(Event):
    """No new requests; its pods drain."""

    function_id: str


@dataclass(frozen=True, slots=True)
class ExecutorReady(Event):
    pod_id: str
    function_id: str
    slots: int


@dataclass(frozen=True, slots=True)
class ExecutorFailed(Event):
    """Binding failed in a way that repeats (the user's import raised, the model folder is broken)."""

    pod_id: str
    function_id: str
    text: str
    payload: Payload = Payload()


@dataclass(frozen=True, slots=True)
class PodLost(Event):
    """The pod's connection ended or its process died. exit_code None while unknown."""

    pod_id: str
    reason: str
    exit_code: int | None = None


@dataclass(frozen=True, slots=True)
class TimerFired(Event):
    """What a WakeAt asked for; `key` comes back as it was given."""

    key: tuple[Any, ...]
