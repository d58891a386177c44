"""The process's connection to its controller: writes from any thread, one reader thread."""

from __future__ import annotations

import os
import socket
import threading
from _thread import get_ident
from collections import deque
from collections.abc import Callable

from deepserve.errors import ControllerLost, DeepServeError, ProtocolError
from deepserve.protocol.framing import Buffer, Frame, FrameError, FrameReader, encode_prefix
from deepserve.protocol.messages import Message, Refused

READ_BYTES = 256 << 10


class Link:
    """`on_frame` is called on the reader thread; `on_closed` there, and before that where a write was interrupted."""

    def __init__(self, connection: socket.socket) -> None:
        self._socket = connection
        self._lock = threading.Lock()
        self._writer = 0
        """The thread that writes a frame now."""
        self._deferred: deque[tuple[Message, Buffer]] = deque()
        self._closed: DeepServeError | None = None
        self._on_closed: Callable[[DeepServeError], None] = lambda error: None
        self._reader = FrameReader()

    def send(self, message: Message, payload: Buffer = b"") -> None:
        """Write one frame; blocks while the socket is full. Raises ControllerLost.

        Called by a finaliser that the garbage collector runs inside a write, it leaves the frame to that write.
        """
        if self._writer == get_ident() and self._lock.locked():
            self._deferred.append((message, payload))
            return
        with self._lock:
            try:
                self._writer = get_ident()
                self._write(message, payload)
                while self._deferred:
                    self._write(*self._deferred.popleft())
            finally:
                self._writer = 0

    def _write(self, message: Message, payload: Buffer) -> None:
        if self._closed is not None:
            raise self._closed
        prefix = encode_prefix(message, len(payload))
        try:
            if len(payload) < 4096:
                self._socket.sendall(prefix + bytes(payload) if payload else prefix)
            else:
                self._socket.sendall(prefix)
                self._socket.sendall(payload)
        except OSError as error:
            raise ControllerLost(f"the controller is gone: {error}") from None
        except BaseException:  # Ctrl-C inside a frame: what follows would be garbage to the controller
            self._closed = ControllerLost("a write to the controller was interrupted")
            self._socket.shutdown(socket.SHUT_RDWR)
            self._on_closed(self._closed)  # at once: the next call must not meet this link
            raise

    def start_reader(
        self, on_frame: Callable[[Message, bytes], object], on_closed: Callable[[DeepServeError], None]
    ) -> None:
        self._on_closed = on_closed

        def read() -> None:
            error = self._read_all(on_frame)
            with self._lock:
                self._closed = error
            on_closed(error)

        threading.Thread(target=read, name="deepserve-link", daemon=True).start()

    def _read_all(self, on_frame: Callable[[Message, bytes], object]) -> DeepServeError:
        buffer = memoryview(bytearray(READ_BYTES))
        try:
            while True:
                for frame in self._reader.frames():
                    if isinstance(frame.message, Refused):
                        return ProtocolError(f"the controller refused this connection: {frame.message.text}")
                    on_frame(frame.message, frame.payload)
                num_read = self._socket.recv_into(buffer)
                if not num_read:
                    return ControllerLost("the controller ended")
                self._reader.feed(buffer[:num_read])
        except FrameError as error:
            return ProtocolError(f"the controller sent what is no frame: {error}")
        except OSError as error:
            return ControllerLost(f"the connection to the controller broke: {error}")
        except Exception as error:  # a fault of ours: those who wait must hear of it
            return ControllerLost(f"what came from the controller was not understood: {error!r}")

    def read_one(self, timeout_s: float) -> Frame:
        """The first frame, before the reader thread runs.

        Raises ProtocolError, or OSError (TimeoutError).
        """
        self._socket.settimeout(timeout_s)
        try:
            while (frame := self._reader.next_frame()) is None:
                data = self._socket.recv(READ_BYTES)
                if not data:
                    raise ProtocolError("the peer closed the connection instead of answering")
                self._reader.feed(data)
        except FrameError as error:
            raise ProtocolError(str(error)) from None
        self._socket.settimeout(None)
        return frame

    def close(self) -> None:
        """Say goodbye: the other side reads the end of file, and the reader thread ends."""
        with self._lock:
            self._closed = self._closed or ControllerLost("this process closed its link")
        try:
            self._socket.shutdown(socket.SHUT_RDWR)
        except OSError:
            pass

    def abandon(self) -> None:
        """In a forked child: drop the inherited descriptor without disturbing the parent's connection."""
        try:
            os.close(self._socket.detach())
        except OSError:
            pass
