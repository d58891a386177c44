"""One connection: its handshake, its frames in, its frames out within a bound."""

from __future__ import annotations

import socket
import struct
import sys
import traceback
from collections import deque
from collections.abc import Callable
from functools import partial
from typing import Protocol, runtime_checkable

from deepserve.protocol.framing import Buffer, FrameError, FrameReader, encode_frame, encode_prefix
from deepserve.protocol.messages import Hello, Message, Refused
from deepserve_controller.errors import Refusal
from deepserve_controller.service.reactor import WRITE, Timer, running_reactor

READ_BYTES = 64 << 10
"""Small enough to come from the allocator: a larger buffer would be mapped and faulted in for every read."""
SMALL_PAYLOAD_BYTES = 64 << 10
"""Up to here one copy is cheaper than a second system call."""
PAUSE_BYTES = 4 << 20
"""Above this many unsent bytes a link is slow: log output for it is dropped and counted."""
MAX_UNSENT_BYTES = 1 << 30
"""A peer that leaves this much unread is cut off."""


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


class Link:
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
        self._reactor = running_reactor()
        self._socket: socket.socket | None = None
        self._unsent: deque[memoryview] = deque()
        self._unsent_bytes = 0
        self._hello_timer: Timer | None = None
        self._is_over = False
        self.is_closed = False
        self.is_paused = False
        """More than PAUSE_BYTES are unsent."""
        self.on_resume: Callable[[], None] | None = None

    def open(self, connection: socket.socket) -> None:
        """Takes over a connected socket."""
        connection.setblocking(False)
        self._socket = connection
        self._reactor.watch(connection.fileno(), self._on_ready)
        if self._handler is None:
            say_no = partial(self.refuse, "garbage", "no Hello came in time")
            self._hello_timer = self._reactor.call_later(self._hello_timeout_s, say_no)

    # --- what the reactor calls ---

    def _on_ready(self, events: int) -> None:
        if events & WRITE and self._unsent:
            self._write_on()
        if events & ~WRITE:
            self._read()

    def _read(self) -> None:
        connection = self._socket
        if connection is None:
            return
        try:
            data = connection.recv(READ_BYTES)
        except (BlockingIOError, InterruptedError):
            return
        except OSError:
            return self._end()
        if not data:
            return self._end()
        if self.is_closed:
            return  # of a link that is only still writing
        try:
            self._take_bytes(data)
        except FrameError as error:
            self.refuse(error.code, str(error))
        except Refusal as refusal:
            self.refuse(refusal.code, refusal.text)
        except Exception:
            # A defect in one handler ends its own link; the other links go on.
            traceback.print_exc(file=sys.stderr)
            self.close()

    def _take_bytes(self, data: bytes) -> None:
        handler = self._handler
        if handler is not None:
            for message, payload in self._reader.take(data):
                if self.is_closed:
                    return
                handler.frame_received(message, payload)
        elif self._raw is not None:
            self._raw.bytes_received(memoryview(data))
        else:
            self._reader.feed(data)
            while not self.is_closed and self._raw is None and (frame := self._reader.next_frame()) is not None:
                self._take(frame.message, frame.payload)

    def _write_on(self) -> None:
        """The socket takes more of what is unsent."""
        connection = self._socket
        assert connection is not None
        try:
            while self._unsent:
                num_sent = connection.send(self._unsent[0])
                self._unsent_bytes -= num_sent
                if num_sent < len(self._unsent[0]):
                    self._unsent[0] = self._unsent[0][num_sent:]
                else:
                    self._unsent.popleft()
        except (BlockingIOError, InterruptedError):
            pass
        except OSError:
            return self._end()
        if not self._unsent:
            self._reactor.watch_writing(connection.fileno(), False)
            if self.is_closed:
                return self._end()
        if self.is_paused and self._unsent_bytes <= PAUSE_BYTES // 4:
            self.is_paused = False
            if self.on_resume is not None:
                self.on_resume()

    def _end(self) -> None:
        """The connection is over: nothing is read or written any more, and its handler hears of it once."""
        if self._is_over:
            return
        self._is_over = self.is_closed = True
        self._unsent.clear()
        self._unsent_bytes = 0
        if self._socket is not None:
            self._reactor.unwatch(self._socket.fileno())
            self._socket.close()
            self._socket = None
        if self._hello_timer is not None:
            self._hello_timer.cancel()
        handler, raw = self._handler, self._raw
        self._handler = self._raw = self._greet = self.on_resume = None
        try:
            if handler is not None:
                handler.link_closed()
            if raw is not None:
                raw.link_closed()
        finally:  # a defect in a handler must not leave an embedded controller without its owner
            if self._on_lost is not None:
                self._on_lost()

    # --- what the rest of the service calls ---

    def send(self, message: Message, payload: Buffer = b"") -> None:
        """Writes one frame, at once where the socket takes it. A closed link takes nothing and says nothing."""
        connection = self._socket
        if self.is_closed or connection is None:
            return
        if len(payload) <= SMALL_PAYLOAD_BYTES:
            self._write(connection, encode_frame(message, payload))
        else:
            self._write(connection, encode_prefix(message, len(payload)))
            self._write(connection, payload)

    def _write(self, connection: socket.socket, data: Buffer) -> None:
        num_sent = 0
        if not self._unsent:
            try:
                num_sent = connection.send(data)
            except (BlockingIOError, InterruptedError):
                pass
            except OSError:
                self.is_closed = True
                return self._reactor.call_soon(self._end)
            if num_sent == len(data):
                return
            self._reactor.watch_writing(connection.fileno(), True)
        self._unsent.append(memoryview(data)[num_sent:])
        self._unsent_bytes += len(data) - num_sent
        if self._unsent_bytes > PAUSE_BYTES:
            self.is_paused = True
            if self._unsent_bytes > MAX_UNSENT_BYTES:
                self.abort()

    def refuse(self, code: str, text: str) -> None:
        self.send(Refused(code, text))
        self.close()

    def close(self) -> None:
        """What is written still goes out; nothing more is read."""
        self.is_closed = True
        if not self._unsent:
            self._reactor.call_soon(self._end)

    def abort(self) -> None:
        self.is_closed = True
        self._reactor.call_soon(self._end)

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
        if self._socket is None:
            return None
        connection = self._socket
        size = struct.calcsize("3i")
        _pid, uid, _gid = struct.unpack("3i", connection.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, size))
        return int(uid)
