"""Every message that crosses a process boundary, as MessagePack maps tagged by `type`.

A message is the header of a frame (`framing.py`); user values are the frame's payload, opaque
bytes that the controller never looks into, described by the header's `value`.
"""

from __future__ import annotations

from typing import Any, Literal

import msgspec

from deepserve.protocol.credit import STREAM_BYTES
from deepserve.protocol.specs import FunctionSpec, Replay

RequestKind = Literal["call", "stream", "map"]
OutcomeKind = Literal[
    "ok",
    "error",  # the user's code raised; the payload is an encoded exception (deepserve._values)
    "timeout",  # the function's own time limit, or the deadline inherited from the caller
    "cancelled",
    "pod_lost",  # the pod died: exit code or signal in the detail
    "startup_failed",  # the executor could not be bound: the payload is an encoded exception
    "refused",  # bad input: unknown function, Python mismatch, too large, queue full
]


class Value(msgspec.Struct, frozen=True, omit_defaults=True):
    """Describes payload bytes; never inferred from the bytes themselves.

    format: `pickle` (protocol 5, laid out by deepserve._values), `msgpack`, `exception`, `none`.
    python: `major.minor` of the sender where code travels by value inside, else empty.
    segment: name of a shared-memory segment that holds the bytes; the frame's payload is then empty.
    refs: names of the stored values to which there are Refs inside.
    """

    format: Literal["pickle", "msgpack", "exception", "none"] = "none"
    size_bytes: int = 0
    python: str = ""
    segment: str = ""
    refs: tuple[str, ...] = ()


Stopped = Literal[
    "",
    "before it began",
    "while it waited",  # for another attempt, or between two inputs of a map
    "cooperatively",  # its code heard of it and ended
    "pod draining",  # it went on after the grace: its pod is killed when the pod's other inputs are done
    "pod killed",
    "pod lost",  # the pod died while its code was being stopped
]
Clock = Literal["", "queue", "startup", "run", "idle", "caller"]
"""Which time ran out: waiting for a pod, loading the code, one attempt's run, a stream's silence, the caller's own."""


class Outcome(msgspec.Struct, frozen=True, omit_defaults=True):
    """`stopped` and `clock` say of what was cancelled or ran out of time how it was stopped, and whose clock it was.

    code: of what is refused, where its error has a class of its own: `depth`. Of a stream that lost its pod or its
    code after it had passed items on, and cannot be started again for that: `interrupted`.
    """

    kind: OutcomeKind
    detail: str = ""
    stopped: Stopped = ""
    clock: Clock = ""
    code: str = ""
    dependency: str = ""
    """The request whose result was to be an argument, where it is that one that ended so."""

    @property
    def is_ok(self) -> bool:
        return self.kind == "ok"


class Timings(msgspec.Struct, frozen=True, omit_defaults=True):
    """Where a task ran and what it took; milliseconds."""

    job_id: str = ""
    task_id: str = ""
    pod_id: str = ""
    attempts: int = 0
    queued_ms: float = 0.0
    """From arrival to the last assignment."""
    run_ms: float = 0.0
    """Inside the pod, as the pod measured it."""
    total_ms: float = 0.0
    user_retries: int = 0
    """Attempts that the function's own `retries` paid for."""
    pod_losses: int = 0
    """Attempts that ended with their pod: never counted as the user's."""


class Message(msgspec.Struct, frozen=True, omit_defaults=True, tag_field="type", tag=True):
    """Base of all messages; the tag is the class name."""


# --- handshake ---------------------------------------------------------------------------------


class Hello(Message, frozen=True):
    """First frame of every connection.

    role `client`: `name` is the client's id, `key` empty on an owner-checked unix socket.
    role `pod`: `name` is the pod id, `key` its one-time join token.
    role `template`: of a function; `name` is the template id, `key` its one-time join token.
    role `log`: `name` is `<pod id>/stdout` or `<pod id>/stderr`, `key` the same token's log key;
    after this frame the connection carries raw bytes.
    """

    version: int
    role: Literal["client", "pod", "log", "template"]
    name: str
    key: str = ""
    python: str = ""
    pid: int = 0


class Welcome(Message, frozen=True):
    version: int
    controller_id: str
    mode: Literal["embedded", "up"]
    python: str = ""
    folder: str = ""
    """The controller's private folder on this host (bundles are unpacked under `folder/bundles`)."""
    segments: str = ""
    """Folder of shared-memory segments; empty for a client on another host."""


class Refused(Message, frozen=True):
    """The connection is closed after this frame. code: version, key, garbage, too_large."""

    code: str
    text: str


# --- clients, and pods on behalf of the code they run -> controller --------------------------------


class PutBundle(Message, frozen=True):
    """The payload is the bundle: a MessagePack map of file names to contents, or one cloudpickle dump."""

    digest: str
    kind: Literal["files", "pickle"]


class DefineFunction(Message, frozen=True):
    """Idempotent; sent once a connection before the first request of the function."""

    function_id: str
    spec: FunctionSpec


class RetireFunction(Message, frozen=True):
    """The sender has another version of the function: once nothing of it runs, and unless somebody else holds it, its
    pods may go at once."""

    function_id: str


class OpenRequest(Message, frozen=True):
    """Starts a request. kind `map`: inputs follow as MapInput, then MapEnd.

    parent_task_id: the task inside which the call is made (from pods), else empty.
    timeout_s: overrides the function's time limit per attempt where positive.
    keep: the result is kept after it was delivered or the client left (spawned under up).
    depends_on: requests whose results are arguments; placeholders in `value` name them by their position here.
    """

    request_id: str
    function_id: str
    kind: RequestKind = "call"
    method: str = ""
    parent_task_id: str = ""
    timeout_s: float = 0.0
    keep: bool = False
    value: Value = Value()
    depends_on: tuple[str, ...] = ()


class MapInput(Message, frozen=True):
    request_id: str
    index: int
    value: Value
    depends_on: tuple[str, ...] = ()
    """As in OpenRequest."""


class MapEnd(Message, frozen=True):
    request_id: str
    count: int


class CancelRequest(Message, frozen=True):
    request_id: str
    force: bool = False


class GrantCredit(Message, frozen=True):
    """The reader of a stream has taken `items` more with `size_bytes`, and has room for as much again.

    A reader begins with the room that `protocol.credit` names. reader: as in AttachRequest.
    """

    request_id: str
    items: int
    size_bytes: int = 0
    reader: int = 0


class AttachRequest(Message, frozen=True):
    """Deliver the outcome of an existing request to this link, and to `reader` a stream's items from `from_offset` on.

    reader: a number of the link's choice for each that reads the stream; 0 is the one that a stream which is not kept
    begins with. Negative: nobody reads, only the outcome is wanted.
    """

    request_id: str
    from_offset: int = 0
    reader: int = 0


class LeaveStream(Message, frozen=True):
    """This reader takes no more; the stream itself goes on, as far as others read it."""

    request_id: str
    reader: int = 0


class ForgetRequest(Message, frozen=True):
    """The holder will not ask again: a kept result may be dropped."""

    request_id: str


class StoreRef(Message, frozen=True):
    """A value was stored under this name, and its maker holds it once. ttl_s: 0 without a time to live."""

    name: str
    value: Value
    ttl_s: float = 0.0


class HoldRefs(Message, frozen=True):
    """The sender has Refs to these that something else brought: it holds each once more.

    Every StreamItem, ItemFinished and RequestFinished is itself a hold of each ref in its value; an AssignTask is none,
    for its request holds them.
    """

    names: list[str]


class ReleaseRefs(Message, frozen=True):
    """The sender has no Ref to these any more: that many holds of each are over."""

    counts: dict[str, int]


class DeleteRef(Message, frozen=True):
    """Nobody shall have it any more."""

    name: str


class Query(Message, frozen=True):
    """A question or order outside the call path (status, apps, logs ...); answered by `Answer`."""

    query_id: int
    name: str
    body: dict[str, Any] = {}


# --- controller -> clients (and pods, for the calls made inside them) -------------------------------


class Answer(Message, frozen=True):
    """`error` is empty, or a code: not_found, invalid, failed; `text` says it in words."""

    query_id: int
    body: dict[str, Any] = {}
    error: str = ""
    text: str = ""


class RequestFinished(Message, frozen=True):
    request_id: str
    outcome: Outcome
    timings: Timings
    value: Value = Value()
    count: int = 0
    """Stream items produced, or map inputs finished."""


class ItemFinished(Message, frozen=True):
    """One input of a map."""

    request_id: str
    index: int
    outcome: Outcome
    timings: Timings
    value: Value = Value()


class StreamItems(Message, frozen=True):
    """Items that follow each other, the first one's number in the stream is `offset`. The payload is their bytes, one
    after the other, of those that lie in no segment. None: what came before `offset` is kept no more."""

    request_id: str
    offset: int
    values: tuple[Value, ...]
    reader: int = 0


class LogOutput(Message, frozen=True):
    """The payload is what user code printed, whole lines where possible."""

    pod_id: str
    label: str
    stream: Literal["stdout", "stderr"]


# --- clients on other hosts, which share no memory with the controller <-> controller -------------------


class PutValue(Message, frozen=True):
    """The payload is a piece of a value that becomes a segment once all its `size_bytes` are here.

    Pieces come in order; `ValueStored` answers the last one, or the first that there is no room for.
    """

    segment: str
    size_bytes: int
    offset: int = 0


class ValueStored(Message, frozen=True):
    """`error`: why it was not, in words."""

    segment: str
    error: str = ""


class FetchValue(Message, frozen=True):
    """Answered by ValueContent with `size_bytes` of the segment from `offset` on; `unlink`: it is then removed."""

    fetch_id: int
    segment: str
    offset: int
    size_bytes: int
    unlink: bool = False


class ValueContent(Message, frozen=True):
    """`error`: why there is nothing, in words."""

    fetch_id: int
    offset: int
    error: str = ""


class DropValue(Message, frozen=True):
    """Nobody will read this segment."""

    segment: str


# --- controller -> pods --------------------------------------------------------------------------------


class BindExecutor(Message, frozen=True):
    """Warm -> bound: load this function, class or model."""

    function_id: str
    spec: FunctionSpec


class BundleContent(Message, frozen=True):
    """Answer to FetchBundle; the payload is the bundle, empty with `missing`."""

    digest: str
    kind: Literal["files", "pickle"]
    missing: bool = False


class AssignTask(Message, frozen=True):
    task_id: str
    attempt: int
    request_id: str
    job_id: str
    kind: RequestKind
    method: str = ""
    index: int = -1
    time_left_s: float = 0.0
    """Until the controller will cancel it; 0 without a limit."""
    credit: int = 0
    """Stream items that may be sent before the next TaskCredit, and their bytes."""
    credit_bytes: int = STREAM_BYTES
    replay: Replay = ""
    resume_offset: int = 0
    """Stream items that earlier attempts have passed on."""
    resume_digest: bytes = b""
    """Of those, with replay `verify`."""
    value: Value = Value()
    dependencies: tuple[Value, ...] = ()
    """Results for the placeholders in `value`; their bytes follow its own in the payload, one after the other."""


class CancelTask(Message, frozen=True):
    task_id: str
    attempt: int
    reason: Literal["cancelled", "timeout"]


class TaskCredit(Message, frozen=True):
    task_id: str
    items: int
    size_bytes: int = 0


class StopPod(Message, frozen=True):
    """Run the exit hooks and end. The pod has no running task unless `reason` says shutdown."""

    reason: str


# --- pods -> controller --------------------------------------------------------------------------------


class FetchBundle(Message, frozen=True):
    digest: str


class ExecutorReady(Message, frozen=True):
    function_id: str
    slots: int
    steps_ms: dict[str, float] = {}
    """What binding took, by step (fetch, import, enter, load)."""


class ExecutorFailed(Message, frozen=True):
    """The payload is an encoded exception."""

    function_id: str
    text: str
    value: Value = Value()


class TaskOutputs(Message, frozen=True):
    """Stream items, as in StreamItems.

    digest: of all the stream's items to the end of these, where a later attempt has to make the same ones again.
    """

    task_id: str
    attempt: int
    offset: int
    values: tuple[Value, ...]
    digest: bytes = b""


class TaskFinished(Message, frozen=True):
    task_id: str
    attempt: int
    outcome: Outcome
    run_ms: float
    value: Value = Value()
    count: int = 0
    may_retry: bool = False
    """The user's Retries(on=...) covers the exception: judged in the pod, which has its class."""
    num_reruns: int = 0
    """How often the pod ran the input again by itself: its batch had failed, or was stopped for another item."""


class CancelReceived(Message, frozen=True):
    """Answers a CancelTask before the code obeys: the pod's interpreter runs, what else is in it can go on."""

    task_id: str
    attempt: int


class PodEnding(Message, frozen=True):
    """The pod ends by itself when the outcomes of its tasks are out; a task that it has not answered then, it has not
    begun."""

    reason: str


class TaskBlocked(Message, frozen=True):
    """The task waits for a call it made: its slot is free."""

    task_id: str


class TaskResumed(Message, frozen=True):
    task_id: str


# --- controller <-> template ---------------------------------------------------------------------------


class ForkPod(Message, frozen=True):
    """The child dials `socket`, says Hello with `token`, and opens its two log connections."""

    pod_id: str
    token: str
    socket: str
    memory_mib: int = 0


class ForkPods(Message, frozen=True):
    """Several at once, to a function's template: what it does between two forks costs a copy of every page it uses."""

    orders: tuple[ForkPod, ...]


class ForkTemplate(Message, frozen=True):
    """To an environment's template: the child dials `socket`, says Hello with `token`, is told by BindExecutor which
    function to load, and then obeys ForkPod on that link. Reported on like a pod: PodForked, PodExited."""

    template_id: str
    token: str
    socket: str
    memory_mib: int = 0


class TemplateReady(Message, frozen=True):
    """`environment` is a function's id where the template is one's."""

    environment: str
    pid: int
    steps_ms: dict[str, float] = {}


class TemplateFailed(Message, frozen=True):
    """Of a function's template the payload is the encoded exception of the user's import or hook."""

    environment: str
    text: str
    value: Value = Value()


class TemplateRefused(Message, frozen=True):
    """A function's template has loaded it, but what it holds now cannot be forked; the template ends."""

    environment: str
    text: str


class PodForked(Message, frozen=True):
    pod_id: str
    pid: int
    fork_ms: float = 0.0


class PodExited(Message, frozen=True):
    """exit_code is negative for a signal, as in subprocess."""

    pod_id: str
    pid: int
    exit_code: int


AnyMessage = (
    Hello | Welcome | Refused
    | PutBundle | DefineFunction | RetireFunction | OpenRequest | MapInput | MapEnd | CancelRequest | GrantCredit
    | AttachRequest | LeaveStream | ForgetRequest | StoreRef | HoldRefs | ReleaseRefs | DeleteRef | Query
    | Answer | RequestFinished | ItemFinished | StreamItems | LogOutput
    | PutValue | ValueStored | FetchValue | ValueContent | DropValue
    | BindExecutor | BundleContent | AssignTask | CancelTask | TaskCredit | StopPod
    | FetchBundle | ExecutorReady | ExecutorFailed | TaskOutputs | TaskFinished
    | CancelReceived | PodEnding | TaskBlocked | TaskResumed
    | ForkPod | ForkPods | ForkTemplate | TemplateReady | TemplateFailed | TemplateRefused | PodForked | PodExited
)  # fmt: skip
