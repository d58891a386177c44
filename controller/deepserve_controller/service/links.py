"""One connection: its handshake, its frames in, its frames out within a bound."""

from __future__ import annotations

import asyncio
import socket
import struct
import sys
import traceback
from collections.abc import Callable
from typing import Protocol, cast, runtime_checkable

from deepserve.protocol.framing import Buffer, FrameError, FrameReader, encode_frame, encode_prefix
from deepserve.protocol.messages import Hello, Message, Refused
from deepserve_controller.errors import Refusal

READ_BYTES = 256 << 10
SMALL_PAYLOAD_BYTES = 64 << 10
"""Up to here one copy is cheaper than a second system call."""
PAUSE_BYTES = 4 << 20
"""Above this many unsent bytes a link is slow: log output for it is dropped and counted."""
MAX_UNSENT_BYTES = 1 << 30
"""A peer that leaves this much unread is cut off."""

_read_buffer = memoryview(bytearray(READ_BYTES))
"""Shared by all links: the loop fills it and its link empties it within one callback."""


class Handler(Protocol):
    """What a connection becomes once its Hello is accepted."""

    def frame_received(self, message: Message, payload: bytes) -> None: ...

    def link_closed(self) -> None: ...


@runtime_checkable
class RawHandler(Protocol):
    """A log connection: bytes without frames after its Hello."""

    def bytes_received(self, data: memoryview) -> None: ...

    def link_closed(self) -> None: ...


Greet = Callable[["Link", Hello], "Handler | RawHandler"]
"""Accepts a Hello (and answers it), or raises Refusal."""


class Link(asyncio.BufferedProtocol):
    """A stream socket with a handler behind it. Frames are handled inside the read callback, without a hand-over."""

    def __init__(
        self,
        greet: Greet | None = None,
        hello_timeout_s: float = 10.0,
        handler: Handler | None = None,
        on_lost: Callable[[], None] | None = None,
    ) -> None:
        """With a `handler` there is no handshake. `on_lost` is called at the end, whatever the link had become."""
        self._greet = greet
        self._hello_timeout_s = hello_timeout_s
        self._handler = handler
        self._on_lost = on_lost
        self._raw: RawHandler | None = None
        self._reader = FrameReader()
        self._transport: asyncio.Transport | None = None
        self._hello_timer: asyncio.TimerHandle | None = None
        self.is_closed = False
        self.is_paused = False
        """More than PAUSE_BYTES are unsent."""
        self.on_resume: Callable[[], None] | None = None

    # --- what asyncio calls ---

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.Transport, transport)
        self._transport.set_write_buffer_limits(high=PAUSE_BYTES, low=PAUSE_BYTES // 4)
        if self._handler is None:
            loop = asyncio.get_running_loop()
            self._hello_timer = loop.call_later(self._hello_timeout_s, self.refuse, "garbage", "no Hello came in time")

    def get_buffer(self, sizehint: int) -> memoryview:
        return _read_buffer

    def buffer_updated(self, nbytes: int) -> None:
        data = _read_buffer[:nbytes]
        try:
            if self._raw is not None:
                self._raw.bytes_received(data)
                return
            self._reader.feed(data)
            while not self.is_closed and self._raw is None and (frame := self._reader.next_frame()) is not None:
                self._take(frame.message, frame.payload)
        except FrameError as error:
            self.refuse(error.code, str(error))
        except Refusal as refusal:
            self.refuse(refusal.code, refusal.text)
        except Exception:
            # A defect in one handler ends its own link; the other links go on.
            traceback.print_exc(file=sys.stderr)
            self.close()

    def pause_writing(self) -> None:
        self.is_paused = True

    def resume_writing(self) -> None:
        self.is_paused = False
        if self.on_resume is not None:
            self.on_resume()

    def connection_lost(self, exc: Exception | None) -> None:
        self.is_closed = True
        if self._hello_timer is not None:
            self._hello_timer.cancel()
        handler, raw = self._handler, self._raw
        self._handler = self._raw = self._greet = self.on_resume = None
        if handler is not None:
            handler.link_closed()
        if raw is not None:
            raw.link_closed()
        if self._on_lost is not None:
            self._on_lost()

    # --- what the rest of the service calls ---

    def send(self, message: Message, payload: Buffer = b"") -> None:
        """Writes one frame, at once where the socket takes it. A closed link takes nothing and says nothing."""
        transport = self._transport
        if self.is_closed or transport is None:
            return
        if len(payload) <= SMALL_PAYLOAD_BYTES:
            transport.write(encode_frame(message, payload))
        else:
            transport.write(encode_prefix(message, len(payload)))
            transport.write(payload)
        if self.is_paused and transport.get_write_buffer_size() > MAX_UNSENT_BYTES:
            self.is_closed = True
            transport.abort()

    def refuse(self, code: str, text: str) -> None:
        self.send(Refused(code, text))
        self.close()

    def close(self) -> None:
        """What is written still goes out; nothing more is read."""
        self.is_closed = True
        if self._transport is not None:
            self._transport.close()

    def abort(self) -> None:
        self.is_closed = True
        if self._transport is not None:
            self._transport.abort()

    # --- inside ---

    def _take(self, message: Message, payload: bytes) -> None:
        if self._handler is not None:
            self._handler.frame_received(message, payload)
            return
        if not isinstance(message, Hello) or self._greet is None:
            raise Refusal("garbage", f"{type(message).__name__} before Hello")
        if self._hello_timer is not None:
            self._hello_timer.cancel()
        handler = self._greet(self, message)
        if isinstance(handler, RawHandler):
            self._raw = handler
            if rest := self._reader.take_rest():
                handler.bytes_received(memoryview(rest))
        else:
            self._handler = handler

    def peer_uid(self) -> int | None:
        """Who is at the other end of a unix socket, as the kernel says; None where it is gone."""
        connection = self._transport.get_extra_info("socket") if self._transport is not None else None
        if connection is None:
            return None
        size = struct.calcsize("3i")
        _pid, uid, _gid = struct.unpack("3i", connection.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, size))
        return int(uid)
