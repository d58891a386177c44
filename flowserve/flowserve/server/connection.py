"""Connection: uvicorn's, less patient, and one that an answer can reset.

uvicorn waits for ever for a request's head and body and keeps a head of any size, and a transport whose client reads
nothing never closes by itself.
"""

from __future__ import annotations

import asyncio
from http import HTTPStatus
from typing import Any

from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol, RequestResponseCycle

from .api_error import ApiError
from .connected import ABORT

HEAD_TIMEOUT_S = 20.0
BODY_TIMEOUT_S = 30.0
"""For the next bytes of a body. Whoever reads one is answered sooner (`body.CHUNK_TIMEOUT_S`); not all are read."""
MAX_HEAD_BYTES = 64 << 10
"""A request's line and headers. Also of what follows a body in chunks, and of all else that is no part of a body."""
SEPARATORS = len(b": \r\n")


def _answer(status: int, message: str) -> bytes:
    """In the shape of OpenAI's errors, before any request is there that a route could answer."""
    body = ApiError(status, message).body()
    head = f"HTTP/1.1 {status} {HTTPStatus(status).phrase}\r\ncontent-type: application/json\r\n"
    return f"{head}content-length: {len(body)}\r\nconnection: close\r\n\r\n".encode() + body


TOO_LARGE = _answer(431, f"the head of the request is above {MAX_HEAD_BYTES} bytes")
NO_HTTP = _answer(400, "what came is no valid HTTP request")


class Connection(HttpToolsProtocol):
    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self._timer: asyncio.TimerHandle | None = None
        self._head_bytes = 0  # that have come since the last piece of a body, or the end of a head

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        super().connection_made(transport)
        self._wait(HEAD_TIMEOUT_S)

    def data_received(self, data: bytes) -> None:
        self._head_bytes += len(data)
        super().data_received(data)
        if self._head_bytes > MAX_HEAD_BYTES and not self.transport.is_closing():
            self._refuse(TOO_LARGE)

    def on_message_begin(self) -> None:
        super().on_message_begin()
        if self._timer is None:
            self._wait(HEAD_TIMEOUT_S)

    def on_headers_complete(self) -> None:
        self._head_bytes = len(self.url) + sum(len(name) + len(value) + SEPARATORS for name, value in self.headers)
        if self._head_bytes > MAX_HEAD_BYTES:  # all of it has come at once
            raise ValueError("head too large")  # the parser ends, and `send_400_response` is called
        self._head_bytes = 0
        self._wait(BODY_TIMEOUT_S)
        extensions: dict[str, Any] = {**self.scope.get("extensions", {}), ABORT: self.transport.abort}
        self.scope["extensions"] = extensions
        super().on_headers_complete()
        if self.cycle is not None and self.cycle.scope["http_version"] == "1.0":
            _write_no_chunks(self.cycle)

    def on_body(self, body: bytes) -> None:
        self._head_bytes = 0
        self._wait(BODY_TIMEOUT_S)
        super().on_body(body)

    def on_message_complete(self) -> None:
        self._stop_waiting()
        super().on_message_complete()

    def connection_lost(self, exc: Exception | None) -> None:
        self._stop_waiting()
        super().connection_lost(exc)

    def end_receiving(self) -> None:
        """Reset the connection if its request has not come to its end: there is nothing to answer yet."""
        if self.cycle is not None and self.cycle.more_body:
            self.transport.abort()

    def send_400_response(self, msg: str) -> None:
        self._refuse(TOO_LARGE if self._head_bytes > MAX_HEAD_BYTES else NO_HTTP)

    def _refuse(self, answer: bytes) -> None:
        cycle = self.cycle
        is_first = not self.pipeline and (cycle is None or (cycle.more_body and not cycle.response_started))
        if is_first or cycle.response_complete:
            self.transport.write(answer)
            self.transport.close()
        else:  # an earlier request's answer is on its way, for which this one must not be taken
            self.transport.abort()

    def _wait(self, timeout_s: float) -> None:
        self._stop_waiting()
        self._timer = self.loop.call_later(timeout_s, self._give_up)

    def _give_up(self) -> None:
        if self.flow.read_paused:  # it is this side that does not read
            self._wait(BODY_TIMEOUT_S)
        else:
            self.transport.abort()

    def _stop_waiting(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None


def _write_no_chunks(cycle: RequestResponseCycle) -> None:
    """HTTP/1.0 has none: a stream is over when its connection closes. uvicorn would write their lengths between the
    events, where such a client (nginx by default, ab) reads them as text."""
    send, has_length = cycle.send, False

    async def send_plainly(message: Any) -> None:
        nonlocal has_length
        if message["type"] == "http.response.start":
            has_length = any(name.lower() == b"content-length" for name, _ in message.get("headers", ()))
            if not has_length:
                cycle.chunked_encoding = False
        elif not has_length:
            cycle.expected_content_length = len(message.get("body", b""))  # uvicorn counts it down
        await send(message)

    cycle.send = send_plainly  # type: ignore[method-assign]
