"""The SDK's requests as messages, and what comes back sorted to those who wait; in scripts and in pods alike.

A pod has a Client over its own link: it passes what arrives to `deliver`, and `install`s the client before user
code runs. A script's client is made by `_controller_choice` at the first remote call.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Callable
from itertools import count
from typing import Any

from deepserve import _context
from deepserve._arrived_values import ArrivedValues
from deepserve._controller_welcome import ControllerWelcome
from deepserve._definition import Definition
from deepserve._inbox import Inbox
from deepserve._inboxes import Inboxes
from deepserve._known_functions import KnownFunctions
from deepserve._outgoing import Outgoing
from deepserve._questions import Questions
from deepserve._stream_readers import StreamReaders
from deepserve._waiting import Leading, Waiting
from deepserve.errors import ControllerLost, DeepServeError
from deepserve.protocol.framing import Buffer
from deepserve.protocol.messages import (
    Answer,
    AttachRequest,
    CancelRequest,
    LogOutput,
    Message,
    OpenRequest,
    RequestKind,
    Value,
    Welcome,
)

NO_READER = -1
QUERY_TIMEOUT_S = 30.0


class Client:
    """Thread-safe. `send` may block; `is_pod`: calls are children of the running task."""

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
        self.controller = ControllerWelcome(welcome)
        self.outgoing = Outgoing(send)
        self.send = self.outgoing.send
        self.refs = self.outgoing.refs
        self._numbers = count(1)
        self._questions = Questions(self.send)
        self._functions = KnownFunctions(self.send)
        self.waiting = Waiting(self.send, is_pod=is_pod, leading=leading)
        self.values = ArrivedValues(self.refs, self._functions, self.controller)
        self.inboxes = Inboxes(self.values)
        self.readers = StreamReaders(self.outgoing, self.inboxes, self._numbers)
        self.leave: Callable[[bool], None] = lambda is_exiting: None
        """Ends the link, and an embedded controller with it. is_exiting: so does the interpreter."""
        self.is_exiting = False
        """The interpreter ends. Daemon threads that wait end with it: told of it, they would print tracebacks."""
        self._pid = os.getpid()

    @property
    def welcome(self) -> Welcome:
        """What the controller said first; waits for it. Raises ControllerLost."""
        return self.controller.wait()

    @property
    def closed(self) -> DeepServeError | None:
        """Why the link ended."""
        return self.outgoing.closed

    # --- requests ---

    def define(self, definition: Definition) -> None:
        """Tell the controller of a function once."""
        if definition.function_id not in self._functions:
            self._functions.define(definition)

    def retire(self, definition: Definition) -> None:
        """Its code has a successor: nobody here will call it again, or else it is defined anew then."""
        if not self.is_pod and self.outgoing.closed is None:
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
        timeout_s: float = 0.0,
    ) -> Inbox:
        """Start a request; returns without a round trip. `is_awaited`: `waiting.for_end` follows at once. timeout_s:
        where positive, in place of the function's own."""
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
                    timeout_s,
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

    def abandon(self, inbox: Inbox) -> None:
        """Whoever waited has left (Ctrl-C, a loop left early): drop the request, and cancel it if it still runs."""
        self.inboxes.drop(inbox)
        if not inbox.is_over and self.outgoing.closed is None:
            try:
                self.cancel(inbox.request_id)
            except DeepServeError:  # the link ended just now, which ends the request too
                pass

    def query(
        self, name: str, body: dict[str, Any] | None = None, timeout_s: float = QUERY_TIMEOUT_S
    ) -> dict[str, Any]:
        """Ask the controller. Raises NotFound, Refused, ControllerLost."""
        self.waiting.step_aside()
        answer = self._questions.ask(name, body or {}, timeout_s)
        if answer is None:
            raise self.outgoing.closed or ControllerLost(f"no answer to {name!r} for {timeout_s:.0f} s")
        return answer

    # --- the link ---

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
                self.controller.put(message)
            case _:
                return False
        return True

    def on_closed(self, error: Exception | None = None) -> None:
        """The link ended: whoever waits gets `error`."""
        closed = error if isinstance(error, DeepServeError) else ControllerLost(str(error or "the controller ended"))
        self.outgoing.close(closed)
        if self.is_exiting:
            return
        self.controller.give_up(closed)
        self.inboxes.close(closed)
        self._questions.give_up()

    def end_in_fork(self) -> None:
        """In a child forked by user code: link and calls are its parent's. Takes no lock: a thread may have held it."""
        text = f"the call belongs to process {self._pid}, of which this one is a fork: its result comes there"
        if self.is_pod:
            text = "a process forked by user code in a pod cannot make remote calls"
        self.outgoing.closed = ControllerLost(text)
        self.inboxes.end_in_fork(self.outgoing.closed)


def _print_output(message: LogOutput, payload: bytes) -> None:
    """What user code printed in a pod, on the same stream here."""
    stream = sys.stdout if message.stream == "stdout" else sys.stderr
    try:
        stream.write(payload.decode(errors="replace"))
        stream.flush()
    except Exception:  # closed, or there is none, or the script put something of its own there
        pass
