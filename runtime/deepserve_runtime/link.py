"""The pod's connection to the controller: whole frames in, whole frames out."""

from __future__ import annotations

import socket
import threading
from collections import deque
from collections.abc import Callable

from deepserve.protocol.framing import Buffer, FrameError, FrameReader, encode_frame, encode_prefix
from deepserve.protocol.messages import Hello, Message, Refused, Welcome
from deepserve_runtime.link_reader import LinkReader

SMALL_PAYLOAD_BYTES = 64 << 10
"""Up to here one copy is cheaper than a second system call."""
READ_BYTES = 256 << 10
DIAL_TIMEOUT_S = 30.0


class LinkClosed(ConnectionError):
    """The controller is gone, or this process has no link of its own."""


class Link:
    """One stream socket. Any thread may send; one thread reads.

    A send is never left half done by a signal's exception: while the main thread writes, `is_writing_on(main)`
    tells the signal handler to put its exception off, and `after_write` is called once the frame is out. Into other
    threads exceptions are thrown between two bytecodes, so that these write a frame in one call.
    """

    def __init__(self, connection: socket.socket, reader: FrameReader | None = None) -> None:
        self._socket = connection
        self._reader = reader or FrameReader()
        self._send_lock = threading.RLock()
        self._writer = 0
        self._deferred: deque[tuple[Message, Buffer]] = deque()
        self.after_write: Callable[[], None] | None = None

    def send(self, message: Message, payload: Buffer = b"") -> None:
        """Writes one frame. Raises FrameError (too_large) before any byte is written, LinkClosed.

        Called by a finaliser that the garbage collector runs inside a write, it leaves the frame to that write.
        """
        if self._send_lock._is_owned():  # type: ignore[attr-defined]
            self._deferred.append((message, payload))
            return
        me = threading.get_ident()
        if len(payload) <= SMALL_PAYLOAD_BYTES or me != threading.main_thread().ident:
            parts: tuple[Buffer, ...] = (encode_frame(message, payload),)
        else:
            parts = (encode_prefix(message, len(payload)), payload)
        with self._send_lock:
            self._writer = me
            try:
                for part in parts:
                    self._socket.sendall(part)
                while self._deferred:
                    self._socket.sendall(encode_frame(*self._deferred.popleft()))
            except OSError as error:
                raise LinkClosed(f"the controller is gone: {error}") from None
            finally:
                self._writer = 0
        if self.after_write is not None:
            self.after_write()

    def is_writing_on(self, thread_ident: int) -> bool:
        return self._writer == thread_ident

    def reader(
        self,
        on_frame: Callable[[Message, bytes], object],
        on_end: Callable[[str], None],
        tick: Callable[[], None] | None = None,
    ) -> LinkReader:
        """What reads this connection; see there."""
        return LinkReader(self._socket, self._reader, on_frame, on_end, tick)

    def fileno(self) -> int:
        return self._socket.fileno()

    def close_copy(self) -> None:
        """In a forked child of the pod: drops the copied descriptor, without touching the connection."""
        self._send_lock = threading.RLock()  # another thread may have held it at the fork
        self._socket.close()


def dial(path: str, hello: Hello) -> tuple[socket.socket, FrameReader, Welcome]:
    """Connects and introduces this pod. Raises LinkClosed where the controller refuses, or is ending just now."""
    connection = _connected(path)
    reader = FrameReader()
    try:
        connection.sendall(encode_frame(hello))
        while (frame := reader.next_frame()) is None:
            data = connection.recv(READ_BYTES)
            if not data:
                raise LinkClosed("the controller closed the connection during the handshake")
            reader.feed(data)
    except LinkClosed:
        raise
    except OSError as error:  # it was killed just now
        raise LinkClosed(f"the controller ended during the handshake: {error}") from None
    if isinstance(frame.message, Refused):
        raise LinkClosed(f"the controller refused this pod: {frame.message.text}")
    if not isinstance(frame.message, Welcome):
        raise FrameError("garbage", f"{type(frame.message).__name__} in place of a welcome")
    connection.settimeout(None)
    return connection, reader, frame.message


def dial_log(path: str, hello: Hello) -> socket.socket:
    """A connection that carries raw bytes after its Hello; the controller answers nothing on it."""
    connection = _connected(path)
    try:
        connection.sendall(encode_frame(hello))
    except OSError as error:
        raise LinkClosed(f"the controller ended during the handshake: {error}") from None
    connection.settimeout(None)
    return connection


def _connected(path: str) -> socket.socket:
    connection = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    connection.settimeout(DIAL_TIMEOUT_S)
    try:
        connection.connect(path)
    except OSError as error:
        connection.close()
        raise LinkClosed(f"no controller answers at {path}: {error}") from None
    return connection
