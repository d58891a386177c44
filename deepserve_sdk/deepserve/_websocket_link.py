"""WebSocketLink: the connection to a controller on another host, with the interface of `_link.Link`.

The same frames, as one stream of bytes: where a WebSocket message ends and the next begins means nothing.
"""

from __future__ import annotations

import os
import socket
import threading
from collections.abc import Callable

from websockets.exceptions import ConnectionClosed
from websockets.sync.client import ClientConnection

from deepserve._frame_link import FrameLink, refusal_of
from deepserve.errors import ControllerLost, DeepServeError, ProtocolError
from deepserve.protocol.framing import Buffer, Frame, FrameError
from deepserve.protocol.messages import Message, Refused

MESSAGE_BYTES = 1 << 20
"""A longer frame is cut, so that keepalive answers find their way between its pieces."""
SMALL_PAYLOAD_BYTES = 64 << 10


class WebSocketLink(FrameLink):
    """`on_frame` is called on the reader thread; `on_closed` there, and before that where a write was interrupted."""

    _breaks = (OSError, ConnectionClosed)

    def __init__(self, connection: ClientConnection) -> None:
        super().__init__()
        self._connection = connection

    def start_reader(
        self, on_frame: Callable[[Message, bytes], object], on_closed: Callable[[DeepServeError], None]
    ) -> None:
        self._on_closed = on_closed

        def read() -> None:
            error = self._read_all(on_frame)
            self._closed = self._closed or error
            on_closed(error)
            self._shut()

        threading.Thread(target=read, name="deepserve-link", daemon=True).start()

    def _read_all(self, on_frame: Callable[[Message, bytes], object]) -> DeepServeError:
        try:
            while True:
                for message, payload in self._frames.frames():
                    if isinstance(message, Refused):
                        return refusal_of(message)
                    on_frame(message, payload)
                self._frames.feed(self._receive(None))
        except FrameError as error:
            return ProtocolError(f"the controller sent what is no frame: {error}")
        except self._breaks as error:
            return ControllerLost(f"the connection to the controller ended: {error}")
        except Exception as error:  # a fault of ours: those who wait must hear of it
            return ControllerLost(f"what came from the controller was not understood: {error!r}")

    def read_one(self, timeout_s: float) -> Frame:
        try:
            return super().read_one(timeout_s)
        except ConnectionClosed as error:
            raise ProtocolError(str(error)) from None

    def _put(self, prefix: bytes, payload: Buffer) -> None:
        if len(payload) <= SMALL_PAYLOAD_BYTES:
            self._connection.send(prefix + bytes(payload) if payload else prefix)
            return
        self._connection.send(prefix)
        view = memoryview(payload).cast("B")
        for at in range(0, len(view), MESSAGE_BYTES):
            self._connection.send(view[at : at + MESSAGE_BYTES])

    def _receive(self, timeout_s: float | None) -> bytes:
        data: bytes | str = self._connection.recv(timeout_s)
        if isinstance(data, str):
            raise FrameError("garbage", "a text message; frames are binary")
        return data

    def close(self) -> None:
        """Say goodbye; the reader thread ends."""
        self._closed = self._closed or ControllerLost("this process closed its link")
        self._connection.close()

    def abandon(self) -> None:
        """In a forked child: drop the inherited descriptor without disturbing the parent's connection."""
        try:
            os.close(self._connection.socket.detach())
        except OSError:
            pass

    def _shut(self) -> None:
        try:
            self._connection.socket.shutdown(socket.SHUT_RDWR)
        except OSError:
            pass
