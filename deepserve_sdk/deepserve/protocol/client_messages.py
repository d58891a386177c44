"""Messages about requests: of clients, and of pods on behalf of the code they run."""

from __future__ import annotations

from typing import Any, Literal

from deepserve.protocol.message_parts import Message, Outcome, RequestKind, Timings, Value
from deepserve.protocol.specs import FunctionSpec

# --- clients -> controller ---------------------------------------------------------------------------


class PutBundle(Message, frozen=True):
    """The payload is the bundle: a MessagePack map of file names to contents, or one cloudpickle dump."""

    digest: str
    kind: Literal["files", "pickle"]


class DefineFunction(Message, frozen=True):
    """Idempotent; sent once a connection before the first request of the function.

    is_found: the sender found it deployed, by its name: it has no part in it once its app was stopped.
    """

    function_id: str
    spec: FunctionSpec
    is_found: bool = False


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
    context_id: of a model's context, which method `cache` makes and `chat` continues.
    is_ahead: of a model's request that takes another one's seat: a pod need have no free slot for it.
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
    context_id: str = ""
    is_ahead: bool = False


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


class Query(Message, frozen=True):
    """A question or order outside the call path (status, apps, logs ...); answered by `Answer`."""

    query_id: int
    name: str
    body: dict[str, Any] = {}


# --- controller -> clients ---------------------------------------------------------------------------


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


ClientMessage = (
    PutBundle | DefineFunction | RetireFunction | OpenRequest | MapInput | MapEnd | CancelRequest | GrantCredit
    | AttachRequest | LeaveStream | ForgetRequest | Query | Answer | RequestFinished | ItemFinished | StreamItems
    | LogOutput
)  # fmt: skip
