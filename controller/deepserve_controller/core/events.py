"""Facts given to the two cores. Both take the same events; each ignores what does not concern it.

An event meant for both may be given to either first. `ControllerStarted` was added to the first contract: it lets the
warm pool start before any function is known. What drivers have to keep is written in `core/cores.py`. Those of maps
are joined here from `map_events`.
"""

from __future__ import annotations

from typing import Any

from deepserve.protocol.messages import EngineReport, Outcome, PodMemory, RequestKind, Weights
from deepserve.protocol.prompt_blocks import PromptBlocks
from deepserve.protocol.specs import FunctionSpec
from deepserve_controller.core.event_parts import NO_PAYLOAD as NO_PAYLOAD
from deepserve_controller.core.event_parts import Event as Event
from deepserve_controller.core.event_parts import Payload as Payload
from deepserve_controller.core.map_events import InputFinished as InputFinished
from deepserve_controller.core.map_events import InputsBegun as InputsBegun
from deepserve_controller.core.map_events import InputsFinished as InputsFinished
from deepserve_controller.core.map_events import InputsReturned as InputsReturned
from deepserve_controller.core.map_events import MapInputArrived as MapInputArrived
from deepserve_controller.core.map_events import MapInputsArrived as MapInputsArrived
from deepserve_controller.core.map_events import MapInputsEnded as MapInputsEnded
from deepserve_controller.core.placement_views import PodWork
from deepserve_controller.core.preload_views import KnownModel
from deepserve_controller.core.scaling_views import TokenLoad
from deepserve_controller.core.startup_views import KnownStartups

# --- to the job executor ------------------------------------------------------------------------


class RequestArrived(Event, frozen=True):
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
    depends_on: tuple[str, ...] = ()
    """Unfinished requests whose results are arguments; the service keeps the results themselves."""
    broken: Outcome | None = None
    """Such a result will never come, and `payload` says why: nothing is run."""
    is_ahead: bool = False
    """As in OpenRequest."""


class RequestCancelled(Event, frozen=True):
    request_id: str
    force: bool = False


class CreditGranted(Event, frozen=True):
    request_id: str
    items: int
    size_bytes: int = 0


class LinkClosed(Event, frozen=True):
    """A client left: its requests that are not kept are cancelled."""

    link_id: str


class TaskProduced(Event, frozen=True):
    """Stream items passed through, the first of them at `offset`; the service relays the items themselves."""

    task_id: str
    attempt: int
    offset: int
    num_items: int = 1
    size_bytes: int = 0
    journal_bytes: int = 0
    """By how much its journal has grown, from which a later attempt goes on; also of a call, which has no items."""


class TaskFinished(Event, frozen=True):
    task_id: str
    attempt: int
    outcome: Outcome
    run_ms: float
    payload: Payload = Payload()
    count: int = 0
    may_retry: bool = False
    num_reruns: int = 0
    prompt: PromptBlocks | None = None


class EngineReported(Event, frozen=True):
    """News of the engine in a pod: see the message."""

    pod_id: str
    report: EngineReport


class TaskPrepared(Event, frozen=True):
    """Round `round` of a migration: the destination has prefilled what it was sent, or says why it cannot."""

    pod_id: str
    task_id: str
    round: int
    error: str = ""


class TaskReleased(Event, frozen=True):
    """The pod has let the sequence go: what it said of it before is all that there is."""

    task_id: str
    attempt: int


class MoveAsked(Event, frozen=True):
    """A running sequence is wanted on another pod, `target_id` or where there is most room."""

    task_id: str
    reason: str
    target_id: str = ""


class WorkAsked(Event, frozen=True):
    """From the cluster manager: `function_id` gets no device, and these pods hold some that it could use."""

    function_id: str
    pod_ids: tuple[str, ...]


class CancelReceived(Event, frozen=True):
    """The pod has read a SendCancel: its interpreter runs, though the code may go on for a while."""

    task_id: str
    attempt: int


class TaskBlocked(Event, frozen=True):
    task_id: str


class TaskResumed(Event, frozen=True):
    task_id: str


class PodEnding(Event, frozen=True):
    """From the pod: it passed its memory limit and ends; tasks that it does not finish first have not begun."""

    pod_id: str
    reason: str


class PodDrainStarted(Event, frozen=True):
    """From the cluster manager: give this pod nothing new."""

    pod_id: str


# --- to the cluster manager ---------------------------------------------------------------------


class ControllerStarted(Event, frozen=True):
    """The first event of all: pods of the warm pool may start before any function is known."""


class PodConnected(Event, frozen=True):
    """The pod dialled in: cold -> warm."""

    pod_id: str
    pid: int


class WeightsFound(Event, frozen=True):
    """A model's template says how large the files of its weights are, which it has yet to load."""

    template_id: str
    size_bytes: int


class TemplateReady(Event, frozen=True):
    """The function is loaded and can be forked. source, weights: of a model, as its message has them."""

    template_id: str
    pid: int
    load_ms: float = 0.0
    source: str = ""
    weights: Weights = Weights()
    memory: PodMemory = PodMemory()
    """Of each pod that is forked from it."""


class WeightsRead(Event, frozen=True):
    """All weights are in memory that the pod's engine still read when it was ready; read_ms: what that took."""

    pod_id: str
    read_ms: float


class TemplateRefused(Event, frozen=True):
    """The function is loaded, but what it holds cannot be forked: its pods have to load it themselves."""

    template_id: str
    text: str
    memory: PodMemory = PodMemory()
    """Of each of them, of a model."""


class TemplateFailed(Event, frozen=True):
    """The user's import or hook raised."""

    template_id: str
    text: str
    payload: Payload = Payload()


class TemplateLost(Event, frozen=True):
    """Its process is gone, or could not be started. The ends of its pods are told apart from it."""

    template_id: str
    text: str


class DemandChanged(Event, frozen=True):
    """From the job executor, where queue length or idleness changed materially."""

    function_id: str
    queued: int
    running: int
    oldest_arrival_s: float | None
    tokens: TokenLoad | None = None
    """Of a model."""


class PodIdle(Event, frozen=True):
    pod_id: str


class PodBusy(Event, frozen=True):
    pod_id: str


class PodDrained(Event, frozen=True):
    """From the job executor: no task is left on the draining pod."""

    pod_id: str


class PodStuck(Event, frozen=True):
    """From the job executor: code on this pod does not stop. It gets nothing new and is killed, by the job executor,
    when its other tasks are done; where these are needed, others must take its place."""

    pod_id: str
    reason: str


class WorkTold(Event, frozen=True):
    """From the job executor, at once: what the pods that WorkAsked named are at; those without a task are missing."""

    function_id: str
    work: dict[str, PodWork]


class ScalingChanged(Event, frozen=True):
    """An order from outside (`autoscaler.update`, deploy): new bounds for a function's pods.

    `buffer_pods` and `window_s` (the scale-down window) stay as they are where they are None.
    """

    function_id: str
    min_pods: int
    max_pods: int
    buffer_pods: int | None = None
    window_s: float | None = None


class DemandRemembered(Event, frozen=True):
    """At the start, once the deployed functions are defined: what an earlier controller knew of their demand."""

    models: tuple[KnownModel, ...]


class StartupsRemembered(Event, frozen=True):
    """At the start, before any function is defined: what an earlier controller on this host knew of starts."""

    known: KnownStartups


# --- to both ------------------------------------------------------------------------------------


class FunctionDefined(Event, frozen=True):
    """weights_bytes: of a model's checkpoint, 0 unknown."""

    function_id: str
    spec: FunctionSpec
    weights_bytes: int = 0


class FunctionRemoved(Event, frozen=True):
    """No new requests; its pods drain."""

    function_id: str


class ExecutorReady(Event, frozen=True):
    pod_id: str
    function_id: str
    slots: int
    load_ms: float = 0.0
    """What its import and hooks took; 0 in pods that were forked with all that done."""
    is_template_stale: bool = False
    """The template that it was forked from holds what is no more: it has loaded for itself."""
    weights: Weights = Weights()
    memory: PodMemory = PodMemory()


class ExecutorFailed(Event, frozen=True):
    """Binding failed in a way that repeats (the user's import raised, the model folder is broken).

    `is_refused`: no pod of it can ever start on this host (memory, devices); `pod_id` is empty then.
    """

    pod_id: str
    function_id: str
    text: str
    payload: Payload = Payload()
    is_slow: bool = False
    """It was still loading when its `startup_timeout_s` was over."""
    is_refused: bool = False


class PodLost(Event, frozen=True):
    """The pod's connection ended or its process died. exit_code None while unknown.

    begun: by task id and attempt of a chunk, how many of its inputs had begun; what is missing is not known.
    """

    pod_id: str
    reason: str
    exit_code: int | None = None
    begun: dict[tuple[str, int], int] = {}


class PodStartFailed(Event, frozen=True):
    """The provider could not start it (template failed, fork failed)."""

    pod_id: str
    text: str


class TimerFired(Event, frozen=True):
    """What a WakeAt asked for; `key` comes back as it was given."""

    key: tuple[Any, ...]
