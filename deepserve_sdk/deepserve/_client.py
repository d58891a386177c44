"""The SDK's requests as messages, and what comes back sorted to those who wait; in scripts and in pods alike.

A pod has a Client over its own link: it passes what arrives to `deliver`, and `install`s the client before user
code runs. A script's client is made by `_controller_choice` at the first remote call.
"""

from __future__ import annotations

import os
import sys
import threading
from collections import deque
from collections.abc import Callable
from itertools import count
from typing import Any

from deepserve import _context
from deepserve._arrived_values import ArrivedValues
from deepserve._definition import Definition
from deepserve._inbox import Inbox
from deepserve._inboxes import Inboxes
from deepserve._known_functions import KnownFunctions
from deepserve._outcome import error_of
from deepserve._questions import Questions
from deepserve._ref_holds import RefHolds
from deepserve._waiting import Leading, Waiting
from deepserve.errors import ControllerLost, DeepServeError
from deepserve.protocol.framing import Buffer
from deepserve.protocol.messages import (
    Answer,
    AttachRequest,
    CancelRequest,
    ForgetRequest,
    GrantCredit,
    ItemFinished,
    LeaveStream,
    LogOutput,
    Message,
    OpenRequest,
    RequestFinished,
    RequestKind,
    Value,
    Welcome,
)

NO_READER = -1
WELCOME_TIMEOUT_S = 30.0
QUERY_TIMEOUT_S = 30.0


class Client:
    """Thread-safe. `send` writes one frame and may block; `is_pod`: calls are children of the running task."""

    def __init__(
        self,
        send: Callable[[Message, Buffer], None],
        *,
        welcome: Welcome | None,
        client_id: str,
        is_pod: bool,
        leading: Leading | None = None,
    ) -> None:
        """leading: how a caller reads the link itself, where it may."""
        self.client_id = client_id
        self.is_pod = is_pod
        self.pid = os.getpid()
        self._send_frame = send
        self._welcome = welcome
        self._welcomed = threading.Event()
        if welcome is not None:
            self._welcomed.set()
        self._numbers = count(1)
        self._questions = Questions(self.send)
        self._functions = KnownFunctions(self.send)
        self.waiting = Waiting(self.send, is_pod=is_pod, leading=leading)
        self._forgotten: deque[str] = deque()
        self.refs = RefHolds(self.send)
        self.values = ArrivedValues(self.refs, self.segments, lambda: self._welcome)
        self.inboxes = Inboxes(self.values)
        self._closed: DeepServeError | None = None
        self.leave: Callable[[], None] = lambda: None
        """Ends the link, and an embedded controller with it."""

    # --- what is known of the controller ---

    @property
    def welcome(self) -> Welcome:
        """What the controller said first; waits for it. Raises ControllerLost."""
        if not self._welcomed.wait(WELCOME_TIMEOUT_S) or self._welcome is None:
            raise self._closed or ControllerLost(f"the controller said nothing for {WELCOME_TIMEOUT_S:.0f} s")
        return self._welcome

    @property
    def welcome_or_none(self) -> Welcome | None:
        """As far as it has come; never waits."""
        return self._welcome

    @property
    def is_embedded(self) -> bool:
        return self._welcome is None or self._welcome.mode == "embedded"

    @property
    def pending_calls(self) -> int:
        """Requests that were opened here and have not finished."""
        return self.inboxes.num_open

    @property
    def closed(self) -> DeepServeError | None:
        return self._closed

    def segments(self) -> str:
        """Folder for large values."""
        return self.welcome.segments

    # --- requests ---

    def define(self, definition: Definition) -> None:
        """Tell the controller of a function once."""
        if definition.function_id not in self._functions:
            self._functions.define(definition)

    def retire(self, definition: Definition) -> None:
        """Its code has a successor: nobody here will call it again, or else it is defined anew then."""
        if not self.is_pod and self._closed is None:
            self._functions.retire(definition)

    def open_request(
        self,
        definition: Definition,
        kind: RequestKind,
        value: Value,
        payload: Buffer = b"",
        *,
        method: str = "",
        keep: bool = False,
        depends_on: tuple[str, ...] = (),
        is_awaited: bool = False,
        context_id: str = "",
    ) -> Inbox:
        """Start a request; returns without a round trip. `is_awaited`: `waiting.for_end` follows at once."""
        self.define(definition)
        request_id = f"rq-{self.client_id}-{next(self._numbers)}"
        task = _context.current_task.get() if self.is_pod else None
        inbox = self.inboxes.open(request_id)
        inbox.is_stream = kind == "stream"
        try:
            if is_awaited:
                self.waiting.begin_leading()
            self.send(
                OpenRequest(
                    request_id,
                    definition.function_id,
                    kind,
                    method,
                    task.task_id if task is not None else "",
                    0.0,
                    keep,
                    value,
                    depends_on,
                    context_id,
                ),
                payload,
            )
        except BaseException:
            self.inboxes.drop(inbox)
            self.waiting.stop_leading()
            raise
        return inbox

    def cancel(self, request_id: str, *, force: bool = False) -> None:
        self.send(CancelRequest(request_id, force))

    def attach(self, request_id: str) -> Inbox:
        """Ask for the outcome of a request that may have been opened elsewhere."""
        inbox = self.inboxes.find_or_add(request_id)
        self.send(AttachRequest(request_id, 0, NO_READER))
        return inbox

    def read_stream(self, inbox: Inbox, from_offset: int) -> Inbox:
        """Ask for the items of a stream that is kept, from `from_offset` on: in an inbox of their own."""
        reader = self.inboxes.add_reader(inbox, next(self._numbers), from_offset)
        self.send(AttachRequest(inbox.request_id, from_offset, reader.reader))
        return reader

    def leave_stream(self, inbox: Inbox, reader: Inbox) -> None:
        """Nobody takes from `reader` any more; the stream itself goes on. May be called twice."""
        if self.inboxes.drop_reader(inbox, reader) and self._closed is None:
            try:
                self.send(LeaveStream(reader.request_id, reader.reader))
            except DeepServeError:  # the link ended just now, which ends all readers
                pass

    def took(self, reader: Inbox, value: Value) -> None:
        """An item was taken out of a stream's inbox: there is room for another one."""
        reader.untold.add(1, value.size_bytes)
        if not reader.is_over and (grant := reader.untold.take_grant()) is not None:
            self.send(GrantCredit(reader.request_id, *grant, reader.reader))

    def abandon(self, inbox: Inbox) -> None:
        """Whoever waited has left (Ctrl-C, a loop left early): drop the request, and cancel it if it still runs."""
        self.inboxes.drop(inbox)
        if not inbox.is_over and self._closed is None:
            try:
                self.cancel(inbox.request_id)
            except DeepServeError:  # the link ended just now, which ends the request too
                pass

    def forget_later(self, request_id: str) -> None:
        """Safe in a finaliser: the message goes with the next frame."""
        self._forgotten.append(request_id)

    def result(self, inbox: Inbox, label: str) -> Any:
        """The finished request's value. Raises its error."""
        if inbox.finished is None:
            raise inbox.error or ControllerLost("the link to the controller ended")
        inbox.is_read = True
        return self.decode(inbox.finished, inbox.payload, label)

    def decode(self, message: RequestFinished | ItemFinished, payload: bytes, label: str) -> Any:
        """The value of a finished request or input. Raises its error."""
        if message.outcome.kind == "ok":
            return self.values.decode(message.value, payload)
        error = error_of(message, payload, roots=self._pod_roots(), label=label)
        if message.value.refs:
            self.refs.received(message.value.refs)
        raise error

    def _pod_roots(self) -> dict[str, str]:
        """For tracebacks."""
        return self._functions.pod_roots(self._welcome.folder if self._welcome is not None else "")

    def query(
        self, name: str, body: dict[str, Any] | None = None, timeout_s: float = QUERY_TIMEOUT_S
    ) -> dict[str, Any]:
        """Ask the controller. Raises NotFound, Refused, ControllerLost."""
        self.waiting.step_aside()
        answer = self._questions.ask(name, body or {}, timeout_s)
        if answer is None:
            raise self._closed or ControllerLost(f"no answer to {name!r} for {timeout_s:.0f} s")
        return answer

    # --- the link ---

    def send(self, message: Message, payload: Buffer = b"") -> None:
        if self._closed is not None:
            raise self._closed
        while self._forgotten:
            try:
                request_id = self._forgotten.popleft()
            except IndexError:  # another thread took the last one
                break
            self._send_frame(ForgetRequest(request_id), b"")
        if self.refs.released and (released := self.refs.take_released()):
            self._send_frame(released, b"")
        self._send_frame(message, payload)

    def deliver(self, message: Message, payload: bytes) -> bool:
        """Take what arrived on the link; False where the message is not for a client."""
        if self.inboxes.deliver(message, payload):
            return True
        match message:
            case Answer():
                self._questions.take(message)
            case LogOutput():
                _print_output(message, payload)
            case Welcome():
                self._welcome = message
                self._welcomed.set()
            case _:
                return False
        return True

    def on_closed(self, error: Exception | None = None) -> None:
        """The link ended: whoever waits gets `error`."""
        closed = error if isinstance(error, DeepServeError) else ControllerLost(str(error or "the controller ended"))
        self._closed = self._closed or closed
        self._welcomed.set()
        self.inboxes.close(closed)
        self._questions.give_up()

    def end_in_fork(self) -> None:
        """In a child that user code forked: the link is its parent's. Takes no lock, which another thread may hold."""
        self._closed = ControllerLost("a process forked by user code in a pod cannot make remote calls")


def _print_output(message: LogOutput, payload: bytes) -> None:
    """What user code printed in a pod, on the same stream here."""
    stream = sys.stdout if message.stream == "stdout" else sys.stderr
    try:
        stream.write(payload.decode(errors="replace"))
        stream.flush()
    except Exception:  # closed, or there is none, or the script put something of its own there
        pass
