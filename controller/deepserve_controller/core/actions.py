"""Orders that the two cores return. A driver carries them out; outcomes come back as events."""

from __future__ import annotations

from typing import Any, Literal

import msgspec

from deepserve.protocol.messages import Outcome, RequestKind, Timings
from deepserve.protocol.specs import FunctionSpec, Replay
from deepserve_controller.core.device import Allotment
from deepserve_controller.core.events import Event, Payload


class Action(msgspec.Struct, frozen=True):
    """Base of all actions; named with a verb."""


class Notify(Action, frozen=True):
    """Hand `event` to the other core, at the same instant."""

    event: Event


class WakeAt(Action, frozen=True):
    """Give `TimerFired(key)` back to the core that asked, at `at_s`. Timers are not cancelled:
    the core ignores a key that no longer matters."""

    at_s: float
    key: tuple[Any, ...]


# --- of the job executor ----------------------------------------------------------------------------


class SendTask(Action, frozen=True):
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
    credit_bytes: int = 0
    replay: Replay = ""
    resume_offset: int = 0
    """Stream items that earlier attempts have passed on."""
    route: str = ""
    """Of a model's request: why it goes to this pod."""


class SendPrepare(Action, frozen=True):
    """Let the pod prefill what is known of a sequence that runs elsewhere: TaskPrepared comes back."""

    pod_id: str
    task_id: str
    round: int
    request_id: str
    method: str
    payload: Payload


class SendRelease(Action, frozen=True):
    """Ask the pod to let a sequence go: TaskReleased comes back, or TaskFinished where it was over."""

    pod_id: str
    task_id: str
    attempt: int


class SendChunk(Action, frozen=True):
    """A run of a map's inputs as one task. limit_s: of each input; time_left_s: of all together; 0 without."""

    pod_id: str
    task_id: str
    attempt: int
    request_id: str
    job_id: str
    function_id: str
    method: str
    first_index: int
    sizes: list[int]
    python: str
    limit_s: float
    time_left_s: float
    data: bytes | memoryview


class SendRecall(Action, frozen=True):
    """Ask for the inputs of a chunk that have not begun: InputsReturned answers it. Where the driver can tell without
    the pod's help how many have begun, InputsBegun comes too."""

    pod_id: str
    task_id: str
    attempt: int


class ForgetChunk(Action, frozen=True):
    """Its pod has nothing more to say about this attempt of a chunk."""

    task_id: str
    attempt: int


class SendCredit(Action, frozen=True):
    pod_id: str
    task_id: str
    items: int
    size_bytes: int


class SendCancel(Action, frozen=True):
    """Ask the pod to stop the task; the grace runs in the job executor, which then kills the pod."""

    pod_id: str
    task_id: str
    attempt: int
    reason: Literal["cancelled", "timeout"]


class FinishRequest(Action, frozen=True):
    """Deliver the outcome to `link_id`; where `keep`, store it first."""

    request_id: str
    link_id: str
    outcome: Outcome
    timings: Timings
    payload: Payload
    count: int
    keep: bool


class FinishItem(Action, frozen=True):
    request_id: str
    link_id: str
    index: int
    outcome: Outcome
    timings: Timings
    payload: Payload


class FinishItems(Action, frozen=True):
    """Inputs of a map, with consecutive indices, that ended well."""

    request_id: str
    link_id: str
    first_index: int
    sizes: list[int]
    timings: Timings
    python: str
    data: bytes


# --- of the cluster manager -------------------------------------------------------------------------


class StartPod(Action, frozen=True):
    """Lease a pod from the provider: it dials in (PodConnected), or PodStartFailed comes back.

    With a `template_id` it is forked from that function's template: it is bound by itself, and ExecutorReady or
    ExecutorFailed follows its PodConnected.
    """

    pod_id: str
    environment: str
    memory_mib: int
    reason: str
    template_id: str = ""
    kv_bytes: int = 0
    """As in BindPod, with a `template_id`."""


class StartTemplate(Action, frozen=True):
    """Load the function once, in a process that pods are forked from.

    One of TemplateReady, TemplateRefused, TemplateFailed and TemplateLost comes back; after TemplateReady, whatever
    ends it, TemplateLost.
    """

    template_id: str
    function_id: str
    spec: FunctionSpec
    reason: str
    is_ahead: bool = False
    """Nobody waits: all of a model's weights are brought into memory before it is ready."""
    is_awaited: bool = False
    """Tasks wait for the first pods that will be forked from it."""


class StopTemplate(Action, frozen=True):
    """End it now; no pod that was forked from it is left."""

    template_id: str
    reason: str


class BindPod(Action, frozen=True):
    """Warm -> bound: the pod answers with ExecutorReady or ExecutorFailed.

    Where the function has a choice of accelerators, `spec` names the one that the pod has got: `devices`.
    """

    pod_id: str
    function_id: str
    spec: FunctionSpec
    reason: str
    devices: Allotment = Allotment()
    kv_bytes: int = 0
    """What a model's KV cache may take; 0 without a bound."""


class StopPod(Action, frozen=True):
    """Ask an idle pod to run its exit hooks and end; killed by the provider after `grace_s`."""

    pod_id: str
    reason: str
    grace_s: float


class SleepPod(Action, frozen=True):
    """A pod's idle model gives back memory; the next task that it is sent wakes it."""

    pod_id: str
    level: int
    reason: str


# --- of both --------------------------------------------------------------------------------------------


class KillPod(Action, frozen=True):
    """SIGKILL the pod's process group now; PodLost comes back."""

    pod_id: str
    reason: str
