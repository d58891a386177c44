"""Messages between the controller and its pods."""

from __future__ import annotations

from typing import Literal

from deepserve.protocol.credit import STREAM_BYTES
from deepserve.protocol.message_parts import Message, Outcome, PodMemory, RequestKind, Value, Weights
from deepserve.protocol.prompt_blocks import PromptBlocks
from deepserve.protocol.specs import FunctionSpec, Replay

# --- controller -> pods ------------------------------------------------------------------------------


class BindExecutor(Message, frozen=True):
    """Warm -> bound: load this function, class or model."""

    function_id: str
    spec: FunctionSpec
    device_kind: str = ""
    device_ids: tuple[str, ...] = ()
    """The pod's devices, where its function names accelerators: it sees no others."""
    is_ahead: bool = False
    """To a template: nobody waits for the model, so all of its weights are brought into memory first."""
    is_awaited: bool = False
    """To a template: tasks wait for its first pods. An engine's make no step before theirs."""
    kv_bytes: int = 0
    """What a model's KV cache may take; 0 without a bound."""


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
    journal: bytes = b""
    """What earlier attempts have said in theirs (`TaskOutputs.journal`), put together."""
    value: Value = Value()
    dependencies: tuple[Value, ...] = ()
    """Results for the placeholders in `value`; their bytes follow its own in the payload, one after the other."""
    journal_bytes: int = 0
    """Of the journal, which travels behind all that in the payload (see `journals`)."""


class PrepareTask(Message, frozen=True):
    """Prefill what is known of a sequence that runs in another pod and may move here; TaskPrepared answers."""

    task_id: str
    round: int
    method: str = ""
    value: Value = Value()
    journal: bytes = b""
    journal_bytes: int = 0


class ReleaseTask(Message, frozen=True):
    """Let a sequence go, with all that is known of it; TaskReleased answers, or TaskFinished where it was over."""

    task_id: str
    attempt: int


class CancelTask(Message, frozen=True):
    task_id: str
    attempt: int
    reason: Literal["cancelled", "timeout"]


class TaskCredit(Message, frozen=True):
    task_id: str
    items: int
    size_bytes: int = 0


SHUTDOWN = "shutdown"
"""The reason of a StopPod where the controller itself is being stopped."""


class StopPod(Message, frozen=True):
    """Run the exit hooks and end. The pod has no running task unless `reason` is SHUTDOWN."""

    reason: str


class SleepExecutor(Message, frozen=True):
    """Of a model without tasks: give back memory until the next task, which wakes it.

    level: 1 keeps the weights within reach, 2 drops them. Ignored by an executor that cannot sleep or has a task.
    """

    level: int
    reason: str


class SetContextTtl(Message, frozen=True):
    """Of a model's context: it lives for another time from now on and after each use; 0 ends it, and unpins its KV.

    Ignored by an executor that does not have it.
    """

    context_id: str
    ttl_s: float


# --- pods -> controller ------------------------------------------------------------------------------


class FetchBundle(Message, frozen=True):
    digest: str


class ExecutorReady(Message, frozen=True):
    function_id: str
    slots: int
    steps_ms: dict[str, float] = {}
    """What binding took, by step (fetch, import, enter, load)."""
    source: str = ""
    """Where what it runs came from: "fork", "host memory", "file" or "conversion"."""
    source_reason: str = ""
    """Why from there, in words."""
    is_template_stale: bool = False
    """It was forked from a template of what is no more, and has loaded for itself."""
    weights: Weights = Weights()
    """Of a model; those of a fork were read by its template."""
    memory: PodMemory = PodMemory()


class ExecutorFailed(Message, frozen=True):
    """The payload is an encoded exception."""

    function_id: str
    text: str
    value: Value = Value()


class TaskOutputs(Message, frozen=True):
    """Stream items, as in StreamItems.

    digest: of all the stream's items to the end of these, where a later attempt has to make the same ones again.
    journal: what a later attempt needs beyond that of earlier outputs to go on behind these items, in the executor's
    own format; also without any items, and of a call, which has none.
    """

    task_id: str
    attempt: int
    offset: int
    values: tuple[Value, ...]
    digest: bytes = b""
    journal: bytes = b""
    journal_bytes: int = 0


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
    prompt: PromptBlocks | None = None
    """From a tokenizer: what the value is about, for routing the task that takes it."""


class EngineReport(Message, frozen=True):
    """What an engine did since its last report: sent when a first token came, an answer ended or a context's time to
    live changed, and ten times a second.

    on_device, on_host, in_file, gone: names of beginnings (see PromptBlocks) by where their KV is now. began: tasks
    whose first token came. steps, step_ms: of those in which sequences got their next tokens. prompt_tokens, prompt_ms:
    computed for prompts, and the time of the steps that computed some. (Of an engine's first step none of these.)
    pinned_blocks: of KV, which contexts keep on the device. read_ms: once, of weights that were arriving (see Weights),
    when all are there.
    """

    on_device: bytes = b""
    on_host: bytes = b""
    in_file: bytes = b""
    gone: bytes = b""
    began: tuple[str, ...] = ()
    steps: int = 0
    step_ms: float = 0.0
    prompt_tokens: int = 0
    prompt_ms: float = 0.0
    pinned_blocks: int = 0
    read_ms: float = 0.0


class TaskPrepared(Message, frozen=True):
    task_id: str
    round: int
    error: str = ""


class TaskReleased(Message, frozen=True):
    """The attempt is over, and not the task: its last TaskOutputs came before."""

    task_id: str
    attempt: int


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


PodMessage = (
    BindExecutor | BundleContent | AssignTask | PrepareTask | ReleaseTask | CancelTask | TaskCredit | StopPod
    | SleepExecutor | SetContextTtl | FetchBundle | ExecutorReady | ExecutorFailed | TaskPrepared | TaskReleased
    | TaskOutputs | TaskFinished | EngineReport | CancelReceived | PodEnding | TaskBlocked | TaskResumed
)  # fmt: skip
