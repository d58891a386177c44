"""ArrivedValues: what came here as results and items; each value is decoded once, or discarded."""

from __future__ import annotations

from typing import Any

from deepserve._controller_welcome import ControllerWelcome
from deepserve._inbox import Inbox
from deepserve._known_functions import KnownFunctions
from deepserve._outcome import error_of
from deepserve._ref_holds import RefHolds
from deepserve._segments import remove_segment
from deepserve._values import decode_value
from deepserve.errors import ControllerLost, DeepServeError
from deepserve.protocol.messages import ItemFinished, RequestFinished, Value


class ArrivedValues:
    """Either way a value leaves shared memory, and the refs inside it are counted as received."""

    def __init__(self, refs: RefHolds, functions: KnownFunctions, controller: ControllerWelcome) -> None:
        self._refs = refs
        self._functions = functions
        self._controller = controller
        self._segments = controller.segments

    def result(self, inbox: Inbox, label: str) -> Any:
        """The finished request's value. Raises its error."""
        if inbox.finished is None:
            raise inbox.own_error() or ControllerLost("the link to the controller ended")
        inbox.is_read = True
        return self.outcome(inbox.finished, inbox.payload, label)

    def outcome(self, message: RequestFinished | ItemFinished, payload: bytes, label: str) -> Any:
        """The value of a finished request or input. Raises its error."""
        if message.outcome.kind == "ok":
            return self.decode(message.value, payload)
        roots = self._functions.pod_roots(self._controller.folder)  # for tracebacks
        error = error_of(message, payload, roots=roots, label=label)
        if message.value.refs:
            self._refs.received(message.value.refs)
        raise error

    def decode(self, value: Value, payload: bytes) -> Any:
        try:
            decoded = decode_value(value, payload, segments=self._segments, unlink=True)
        except BaseException:
            self.discard(value)
            raise
        if value.refs:
            self._refs.received(value.refs)  # while `decoded` holds what stays of them
        return decoded

    def discard(self, value: Value | None) -> None:
        """A result that nobody will read must not stay in shared memory."""
        if value is None:
            return
        if value.refs:
            self._refs.received(value.refs)
        welcome = self._controller.said
        if value.segment and welcome is not None:
            try:
                remove_segment(welcome.segments, value.segment)
            except (OSError, DeepServeError):
                pass
