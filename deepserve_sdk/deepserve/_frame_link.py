"""FrameLink: what links have in common, whatever their bytes travel over."""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Callable

from deepserve.errors import (
    ControllerLost,
    ControllerUnreachable,
    DeepServeError,
    ProtocolError,
    StateFolderInUse,
)
from deepserve.protocol.framing import Buffer, Frame, FrameError, FrameReader, encode_prefix
from deepserve.protocol.messages import Message, Refused


class FrameLink:
    """Frames are written by any thread, one at a time; the first one that comes is read by the thread that opens the
    link, before a reader thread runs."""

    _breaks: tuple[type[Exception], ...] = (OSError,)
    """What writing raises once the connection has ended."""

    def __init__(self) -> None:
        self._lock = threading.RLock()
        """Held by the thread that writes a frame."""
        self._deferred: deque[tuple[Message, Buffer]] = deque()
        self._closed: DeepServeError | None = None
        self._on_closed: Callable[[DeepServeError], None] = lambda error: None
        self._frames = FrameReader()

    def send(self, message: Message, payload: Buffer = b"") -> None:
        """Write one frame; blocks while the other side is slower. Raises ControllerLost.

        Called by a finaliser that the garbage collector runs inside a write, it leaves the frame to that write.
        """
        if self._lock._is_owned():  # type: ignore[attr-defined]
            self._deferred.append((message, payload))
            return
        with self._lock:
            self._write(message, payload)
            while self._deferred:
                self._write(*self._deferred.popleft())

    def read_one(self, timeout_s: float) -> Frame:
        """The first frame, before the reader thread runs.

        Raises ProtocolError, or OSError (TimeoutError).
        """
        try:
            while (frame := self._frames.next_frame()) is None:
                self._frames.feed(self._receive(timeout_s))
        except FrameError as error:
            raise ProtocolError(str(error)) from None
        return frame

    def _write(self, message: Message, payload: Buffer) -> None:
        if self._closed is not None:
            raise self._closed
        prefix = encode_prefix(message, len(payload))
        try:
            self._put(prefix, payload)
        except self._breaks as error:
            raise ControllerLost(f"the controller is gone: {error}") from None
        except BaseException:  # Ctrl-C inside a frame: what follows would be garbage to the controller
            self._closed = ControllerLost("a write to the controller was interrupted")
            self._shut()
            self._on_closed(self._closed)  # at once: the next call must not meet this link
            raise

    def _put(self, prefix: bytes, payload: Buffer) -> None:
        """One frame's bytes, all of them."""
        raise NotImplementedError

    def _receive(self, timeout_s: float | None) -> bytes:
        """Some bytes. Raises ProtocolError at their end."""
        raise NotImplementedError

    def _shut(self) -> None:
        """Nothing goes either way any more."""
        raise NotImplementedError


def refusal_of(message: Refused) -> DeepServeError:
    """Of a link whose reader runs."""
    if message.code == "state_in_use":
        return StateFolderInUse(message.text)
    if message.code == "start":
        return ControllerUnreachable(f"the embedded controller could not be started: {message.text}")
    return ProtocolError(f"the controller refused this connection: {message.text}")
