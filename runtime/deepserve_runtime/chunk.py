"""A chunk in a pod: inputs of a map that run one after the other, and what is told of them."""

from __future__ import annotations

import threading
import time
from collections import deque
from collections.abc import Callable
from itertools import accumulate
from typing import TYPE_CHECKING, Any, NamedTuple

from deepserve.protocol.map_messages import AssignChunk, InputFinished, InputsFinished, InputsReturned
from deepserve.protocol.messages import AssignTask, Outcome, Value
from deepserve_runtime import sdk
from deepserve_runtime.begun_page import BegunPage, Note
from deepserve_runtime.error_outcome import interrupted_outcome, outcome_of
from deepserve_runtime.task import Task, flush_prints

if TYPE_CHECKING:
    from deepserve.protocol.framing import Buffer
    from deepserve_runtime.pod import Pod

TELL_S = 0.001
"""What is finished is told at least this often, as long as inputs end."""
OK = Outcome("ok")
NONE = Value()


class Ended(NamedTuple):
    """One input's end, before it is told."""

    run_s: float
    payload: Buffer
    value: Value
    outcome: Outcome = OK
    may_retry: bool = False

    @property
    def is_plain(self) -> bool:
        """It may share a frame with others."""
        value = self.value
        return self.outcome is OK and value.format == "pickle" and not value.segment and not value.refs


class Chunk(Task):
    """For the thread or the loop that runs it, and for a cancel, one task.

    An input is taken from `_waiting` by the runner or by a recall, each in one step, so it runs or goes back, never
    both. What has ended lies in `_ended` until somebody tells it: the runner after TELL_S and at the end, a recall at
    once. So a long run holds back no result for longer than the controller's patience.
    """

    def __init__(
        self,
        pod: Pod,
        message: AssignChunk,
        payload: bytes,
        on_finished: Callable[[Task], None],
        page: BegunPage | None,
    ) -> None:
        value = Value("pickle", len(payload), message.python)
        assignment = AssignTask(
            message.task_id, message.attempt, message.request_id, message.job_id, "map", message.method,
            message.first_index, message.time_left_s, value=value,
        )  # fmt: skip
        super().__init__(pod, assignment, payload, on_finished)
        self._limit_s = message.limit_s
        self._ends_at_s = time.monotonic() + message.time_left_s if message.time_left_s > 0.0 else 0.0
        self._python = message.python
        self._ends = list(accumulate(message.sizes, initial=0))
        self._count = len(message.sizes)
        self._waiting = deque(range(self._count))
        self._ended: deque[Ended] = deque()
        self._num_ended = 0
        self._num_returned = 0
        self._telling = threading.Lock()
        self._num_told = 0
        self._told_s = 0.0
        self._began_s = 0.0
        self._makes_calls = False
        """The input that runs has made a call: its end is told before the next one begins."""
        self._page = page
        self._note: Note | None = None

    # --- the runner --------------------------------------------------------------------------------------

    def begin(self) -> None:
        """Once, before the first input."""
        if self._page is not None:
            self._note = self._page.open(*self.key)
        self._began_s = self._told_s = time.monotonic()

    def next_position(self) -> int | None:
        """Of an input that begins now; None where none waits any more, or it is time to tell."""
        if self._makes_calls or self._began_s - self._told_s > TELL_S:
            return None
        try:
            position = self._waiting.popleft()
        except IndexError:
            return None
        if self._note is not None:
            self._note.counts[self._note.at] = position + 1
        return position

    @property
    def is_empty(self) -> bool:
        return not self._waiting

    def context_of(self, position: int) -> sdk.TaskContext:
        ends_at_s = self._ends_at_s
        if self._limit_s > 0.0:
            own_s = self._began_s + self._limit_s
            ends_at_s = min(own_s, ends_at_s) if ends_at_s else own_s
        a = self.assignment
        return sdk.TaskContext(
            a.request_id, a.task_id, a.attempt, self.pod.pod_id, a.job_id, self.pod.code, a.index + position, ends_at_s
        )

    def arguments(self, position: int) -> tuple[tuple[Any, ...], dict[str, Any]]:
        start, end = self._ends[position], self._ends[position + 1]
        args, kwargs = sdk.decode_value(Value("pickle", end - start, self._python), self.payload[start:end])
        return args, kwargs

    def ended_well(self, value: Value, payload: Buffer) -> None:
        self._end(Ended(self._run_s(), payload, value))

    def ended_badly(self, error: BaseException, may_retry: bool) -> None:
        outcome, value, payload = outcome_of(error, self.pod.pod_id)
        self._end(Ended(self._run_s(), payload, value, outcome, may_retry))

    def _run_s(self) -> float:
        now_s = time.monotonic()
        run_s, self._began_s = now_s - self._began_s, now_s
        return run_s

    def _end(self, ended: Ended) -> None:
        self._ended.append(ended)
        self._num_ended += 1

    def before_call(self) -> None:
        """The running input is about to make a call: the ends before it are told first, so that the controller knows
        whose call it is."""
        if not self._makes_calls:
            self._makes_calls = True
            self.tell()

    # --- what is told, from any thread ---------------------------------------------------------------------

    def tell(self) -> None:
        """All that has ended, in order."""
        with self._telling:
            if self._ended:
                flush_prints()
            while self._ended:
                if self._ended[0].is_plain:
                    self._tell_plain()
                else:
                    self._tell_one(self._ended.popleft())
            sdk.let_refs_go(NONE)
            self._told_s = time.monotonic()
            self._makes_calls = self._makes_calls and self._is_running

    def _tell_plain(self) -> None:
        first = self._ended.popleft()
        run = [first]
        while self._ended and self._ended[0].is_plain and self._ended[0].value.python == first.value.python:
            run.append(self._ended.popleft())
        position, self._num_told = self._num_told, self._num_told + len(run)
        payloads = [ended.payload for ended in run]
        run_ms = sum(ended.run_s for ended in run) * 1e3
        sizes = [len(payload) for payload in payloads]
        self.pod.link.send(
            InputsFinished(*self.key, position, sizes, run_ms, first.value.python), b"".join(payloads)
        )  # fmt: skip

    def _tell_one(self, ended: Ended) -> None:
        position, self._num_told = self._num_told, self._num_told + 1
        self.pod.link.send(
            InputFinished(*self.key, position, ended.outcome, ended.run_s * 1e3, ended.value, ended.may_retry),
            ended.payload,
        )
        sdk.let_refs_go(ended.value)

    @property
    def _num_begun(self) -> int:
        return self._count - len(self._waiting) - self._num_returned

    @property
    def _is_running(self) -> bool:
        return self._num_begun > self._num_ended

    # --- recall and end ------------------------------------------------------------------------------------

    def recall(self) -> None:
        """On the reader thread: what has not begun goes back, what has ended is told."""
        began_s = self._began_s
        position = self._give_back()
        self.tell()
        running_ms = (time.monotonic() - began_s) * 1e3 if self._is_running else 0.0
        self.pod.link.send(InputsReturned(*self.key, position, running_ms))

    def _give_back(self) -> int:
        """Takes what waits out of the runner's reach; returns the position of the first."""
        while True:
            try:
                self._waiting.pop()
            except IndexError:
                return self._num_begun
            self._num_returned += 1

    def finish_chunk(self) -> None:
        """All that it had has ended or gone back."""
        with self._lock:
            if self.is_finished:
                return
            self.is_finished = True
            sdk.context.stopping.discard(self.key)
        if self.before_finish is not None:
            self.before_finish()
        self.tell()
        if self._note is not None and self._page is not None:
            self._page.close(self._note)
        self._on_finished(self)
        if self.after_finish is not None:
            self.after_finish()

    def finish_cancelled(self) -> None:
        """The running input was interrupted."""
        self._stop(interrupted_outcome(self.cancel_reason), NONE, b"")

    def fail(self, error: BaseException, may_retry: bool = False) -> None:
        """From outside the run: the pod cannot run it, or has to end. Only the input that runs has failed, if one
        does."""
        if self.cancel_reason:
            return self.finish_cancelled()
        self._stop(*outcome_of(error, self.pod.pod_id))

    def refuse(self, text: str) -> None:
        self._stop(Outcome("refused", text), NONE, b"")

    def _stop(self, outcome: Outcome, value: Value, payload: Buffer) -> None:
        """What runs ends with `outcome` and the rest goes back; all ends with it where none has begun."""
        has_begun = self._num_begun > 0
        ended = Ended(0.0, payload, value, outcome)
        if has_begun or self.cancel_reason:
            position = self._give_back()
            self.tell()
            self.pod.link.send(InputsReturned(*self.key, position))
            if self._is_running:
                self._end(ended)
        else:
            while self._waiting:
                self._waiting.popleft()
                self._end(ended)
        self.finish_chunk()
