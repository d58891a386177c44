"""One task in a pod: its input, its outcome, its credit, and how it is interrupted."""

from __future__ import annotations

import sys
import threading
import time
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from deepserve.protocol.credit import Credit
from deepserve.protocol.framing import MAX_PAYLOAD_BYTES, Buffer
from deepserve.protocol.journals import packed
from deepserve.protocol.messages import AssignTask, Outcome, OutcomeKind, TaskFinished, TaskOutputs, TaskReleased, Value
from deepserve.protocol.prompt_blocks import PromptBlocks
from deepserve_runtime import sdk
from deepserve_runtime.error_outcome import interrupted_outcome, outcome_of
from deepserve_runtime.outputs import Outputs

if TYPE_CHECKING:
    from deepserve_runtime.pod import Pod


class Task:
    """Created when AssignTask arrives, finished exactly once by the thread that ran it."""

    def __init__(self, pod: Pod, assignment: AssignTask, payload: bytes, on_finished: Callable[[Task], None]) -> None:
        self.pod = pod
        self.assignment = assignment
        self.payload = payload
        self.key = (assignment.task_id, assignment.attempt)
        self.cancel_reason = ""
        """`cancelled` or `timeout` once a cancel has arrived."""
        self.was_interrupted = False
        """The cancel has been raised in the running code."""
        self.is_leaving = False
        """It is to go on in another pod."""
        self.is_finished = False
        self.before_finish: Callable[[], None] | None = None
        """Gives the thread free just before the outcome is sent: the next task may arrive at once."""
        self.after_finish: Callable[[], object] | None = None
        """Called once when the outcome was sent."""
        self.outputs = Outputs(pod.link, assignment) if assignment.kind == "stream" else None
        self.interruption = sdk.errors.InputCancelled if self.outputs is None else sdk.errors.StreamClosed
        """What a cancel raises in the running code."""
        self.num_reruns = 0
        """Runs of its batch beyond the first."""
        self.prompt: PromptBlocks | None = None
        """Of a tokenizer's result: what routing is to know of it."""
        self._on_finished = on_finished
        self._credit = Credit(assignment.credit, assignment.credit_bytes)
        self._lock = threading.RLock()
        self._changed = threading.Condition(self._lock) if self.outputs is not None else None
        """Only a stream waits for what others do to it; no other task is worth the Condition, which is Python."""
        self._interrupt: Callable[[], object] | None = None
        self._on_change: Callable[[], object] | None = None
        self._started_s = time.perf_counter()

    @property
    def context(self) -> sdk.TaskContext:
        a = self.assignment
        ends_at_s = time.monotonic() + a.time_left_s if a.time_left_s > 0.0 else 0.0
        resume_offset = a.resume_offset if a.replay == "resume" else 0
        return sdk.TaskContext(
            a.request_id, a.task_id, a.attempt, self.pod.pod_id, a.job_id, self.pod.code, a.index, ends_at_s,
            resume_offset,
        )  # fmt: skip

    # --- input ---------------------------------------------------------------------------------------

    def start(self) -> Any:
        """The decoded input; the clock of run_ms starts here."""
        self._started_s = time.perf_counter()
        payload, self.payload = self.payload, b""
        if self.assignment.dependencies:
            return self._with_results(payload)
        value = self.assignment.value
        decoded = sdk.decode_value(value, payload, segments=self.pod.segments)
        if value.refs:
            sdk.current_client().refs.announce(value.refs)
        return decoded

    def _with_results(self, payload: bytes) -> Any:
        """The arguments with results of other calls in their places."""
        decoded: list[Any] = []
        at = 0
        for value in (self.assignment.value, *self.assignment.dependencies):
            size_bytes = 0 if value.segment else value.size_bytes
            decoded.append(sdk.decode_value(value, payload[at : at + size_bytes], segments=self.pod.segments))
            if value.refs:
                sdk.current_client().refs.announce(value.refs)
            at += size_bytes
        return sdk.put_in(decoded[0], decoded[1:])

    # --- cancel and credit, from the reader thread -----------------------------------------------------

    def cancel(self, reason: str) -> None:
        with self._lock:
            if self.cancel_reason:
                return
            self.cancel_reason = reason
            if not self.is_finished:
                sdk.context.stopping.add(self.key)
            if self._interrupt is not None:
                self._interrupt()
            self._notify()

    def grant(self, items: int, size_bytes: int = 0) -> None:
        with self._lock:
            self._credit.grant(items, size_bytes)
            self._notify()

    def leave(self) -> None:
        with self._lock:
            self.is_leaving = True
            self._notify()

    def _notify(self) -> None:
        if self._changed is not None:
            self._changed.notify_all()
        if self._on_change is not None:
            self._on_change()

    # --- around user code --------------------------------------------------------------------------------

    def open_to_interrupts(self, interrupt: Callable[[], object]) -> None:
        """From here `interrupt` is called once if the task is cancelled. Raises InputCancelled if it already is."""
        with self._lock:
            self._interrupt = interrupt
            if self.cancel_reason:
                self._interrupt = None
                raise self.interruption(self.cancel_reason)

    def close_to_interrupts(self) -> None:
        """No interrupt is sent after this returns; one already sent is the caller's to absorb."""
        with self._lock:
            self._interrupt = None

    def watch(self, on_change: Callable[[], object]) -> None:
        """Calls `on_change` on the reader thread at every credit and cancel (for coroutines)."""
        with self._lock:
            self._on_change = on_change

    @property
    def may_send(self) -> bool:
        return self._credit.is_open or (self.outputs is not None and self.outputs.is_replaying)

    def wait_for_credit(self) -> None:
        """Returns when one item may be sent. Raises InputCancelled when the task is cancelled meanwhile."""
        if self._credit.is_open:  # only this thread uses it up
            return
        assert self._changed is not None
        with self._changed:
            while not self.may_send:
                if self.cancel_reason:
                    raise self.interruption(self.cancel_reason)
                self._changed.wait()
        self.note_credit_came()

    def note_credit_came(self) -> None:
        """The generator was waiting for its reader, who has items at hand: those that come now need not hurry."""
        if self.outputs is not None:
            self.outputs.gather()

    # --- output ------------------------------------------------------------------------------------------

    def emit(self, value: Value, payload: Buffer, journal: bytes = b"") -> None:
        """Sends one stream item, for which there is credit. Raises ValueTooLarge, StreamReplayMismatch.

        journal: what a later attempt needs to go on behind it.
        """
        assert self.outputs is not None
        check_size(value, payload, "a stream item")
        if self.outputs.is_replaying:
            try:
                self.outputs.replay(value, payload)
            finally:
                if value.segment:
                    sdk.remove_segment(self.pod.segments, value.segment)
            return
        with self._lock:
            self._credit.spend(1, value.size_bytes)
            has_room = self._credit.is_open
        self.outputs.add(value, payload, has_room, journal)

    def note(self, journal: bytes) -> None:
        """What a later attempt needs to go on from here, where there is nothing to send."""
        if self.outputs is not None:
            self.outputs.note(journal)
        else:
            self.pod.link.send(*packed(TaskOutputs(*self.key, 0, (), journal=journal), b""))

    def finish(self, value: Value = Value(), payload: Buffer = b"") -> None:  # noqa: B008  (frozen)
        try:
            check_size(value, payload, "the result")
            if self.outputs is not None:
                self.outputs.check_replayed()
        except (sdk.errors.ValueTooLarge, sdk.errors.StreamReplayMismatch) as error:
            self.fail(error)
            return
        self._finish("ok", "", value, payload)

    def fail(self, error: BaseException, may_retry: bool = False) -> None:
        """The task ends by `error`: by the cancel's reason where a cancel has been asked for."""
        if self.cancel_reason:
            self.finish_cancelled()
            return
        outcome, value, payload = outcome_of(error, self.pod.pod_id)
        self._finish(outcome.kind, outcome.detail, value, payload, may_retry)

    def fail_with(self, detail: str, value: Value, payload: Buffer) -> None:
        """The task ends by an error that `value` describes to a caller who does not read exceptions."""
        if self.cancel_reason:
            self.finish_cancelled()
        else:
            self._finish("error", detail, value, payload)

    def finish_cancelled(self) -> None:
        outcome = interrupted_outcome(self.cancel_reason)
        self._finish(outcome.kind, outcome.detail, Value(), b"")

    def release(self) -> None:
        """It goes on in another pod, behind what was sent of it."""
        with self._lock:
            if self.is_finished:
                return
            self.is_finished = True
            sdk.context.stopping.discard(self.key)
        if self.outputs is not None:
            self.outputs.flush()
        self.pod.link.send(TaskReleased(*self.key))
        self._on_finished(self)
        if self.after_finish is not None:
            self.after_finish()

    def refuse(self, text: str) -> None:
        self._finish("refused", text, Value(), b"")

    def _finish(self, kind: OutcomeKind, detail: str, value: Value, payload: Buffer, may_retry: bool = False) -> None:
        with self._lock:
            if self.is_finished:
                return
            self.is_finished = True
            sdk.context.stopping.discard(self.key)
        run_ms = (time.perf_counter() - self._started_s) * 1e3
        flush_prints()
        if self.before_finish is not None:
            self.before_finish()
        task_id, attempt = self.key
        outcome = Outcome(kind, detail)
        count = 0
        if self.outputs is not None:
            self.outputs.flush()
            count = self.outputs.num_items
        message = TaskFinished(task_id, attempt, outcome, run_ms, value, count, may_retry, self.num_reruns, self.prompt)
        self.pod.link.send(message, payload)
        sdk.let_refs_go(value)
        self._on_finished(self)
        if self.after_finish is not None:
            self.after_finish()


def check_size(value: Value, payload: Buffer, what: str) -> None:
    if len(payload) > MAX_PAYLOAD_BYTES:
        raise sdk.errors.ValueTooLarge(f"{what} takes {len(payload)} bytes (limit {MAX_PAYLOAD_BYTES})")


def flush_prints() -> None:
    """What the task printed reaches the log before its outcome reaches the caller."""
    for stream in (sys.stdout, sys.stderr):
        try:
            stream.flush()
        except Exception:  # user code may have closed or replaced them
            continue
