"""The process's connection to its controller: writes from any thread; who reads it is LinkReader's matter."""

from __future__ import annotations

import os
import socket
import threading
from collections.abc import Callable
from contextlib import suppress

from deepserve._frame_link import FrameLink
from deepserve._link_reader import READ_BYTES, LinkReader
from deepserve.errors import ControllerLost, DeepServeError, ProtocolError
from deepserve.protocol.framing import Buffer, Frame
from deepserve.protocol.messages import Message

SMALL_PAYLOAD_BYTES = 4096
CLOSE_TIMEOUT_S = 0.5
"""How long what the controller still sends may take, once this side has said goodbye."""


class Link(FrameLink):
    """`on_frame` is called on the reader thread; `on_closed` there, and before that where a write was interrupted."""

    def __init__(self, connection: socket.socket) -> None:
        super().__init__()
        self._socket = connection
        self._reader: LinkReader | None = None
        self._ended = threading.Event()
        """Nothing is read any more."""

    def start_reader(
        self, on_frame: Callable[[Message, bytes], object], on_closed: Callable[[DeepServeError], None]
    ) -> None:
        self._on_closed = on_closed

        def end(error: DeepServeError) -> None:
            with self._lock:  # nobody writes any more, and nobody but this thread reads
                self._closed = error
                self._socket.close()
            self._ended.set()
            on_closed(error)

        self._reader = LinkReader(self._socket, self._frames)
        self._reader.start(on_frame, end)

    def begin_leading(self) -> None:
        """The caller will read the answer to what it is about to send itself; see LinkReader."""
        if self._reader is not None:
            self._reader.begin_leading()

    def lead(self, is_awaited: Callable[[Frame], bool]) -> bool:
        """Read on the caller's thread until the frame comes that `is_awaited` takes; see LinkReader."""
        return self._reader is not None and self._reader.lead(is_awaited)

    def step_aside(self) -> None:
        """Before this thread waits for anything that comes over this link, but by leading."""
        if self._reader is not None:
            self._reader.step_aside()

    def stop_leading(self) -> None:
        """May be called at any time, and is called again where Ctrl-C came in the middle of it."""
        if self._reader is not None:
            self._reader.stop_leading()

    def _put(self, prefix: bytes, payload: Buffer) -> None:
        if len(payload) < SMALL_PAYLOAD_BYTES:
            self._socket.sendall(prefix + bytes(payload) if payload else prefix)
        else:
            self._socket.sendall(prefix)
            self._socket.sendall(payload)

    def _receive(self, timeout_s: float | None) -> bytes:
        self._socket.settimeout(timeout_s)
        data = self._socket.recv(READ_BYTES)
        if not data:
            raise ProtocolError("the peer closed the connection instead of answering")
        self._socket.settimeout(None)
        return data

    def _shut(self) -> None:
        self._socket.shutdown(socket.SHUT_RDWR)

    def close(self) -> None:
        """Say goodbye: the other side reads the end of file and closes; what it had sent by then is still read."""
        with self._lock:
            self._closed = self._closed or ControllerLost("this process closed its link")
        try:
            self._socket.shutdown(socket.SHUT_WR)
        except OSError:
            pass
        if self._reader is not None and not self._ended.wait(CLOSE_TIMEOUT_S):
            with suppress(OSError):
                self._socket.shutdown(socket.SHUT_RD)

    def abandon(self) -> None:
        """In a forked child: drop the inherited descriptor without disturbing the parent's connection."""
        try:
            if self._reader is not None:
                self._reader.close_copy()
            os.close(self._socket.detach())
        except OSError:
            pass
