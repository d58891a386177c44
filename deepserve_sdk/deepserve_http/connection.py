"""Connection: uvicorn's, less patient: one that does not bring a whole request in time, or a head of a decent size, is
closed, and an answer can reset it.

uvicorn waits for ever for a request's head and body and keeps a head of any size, so that whoever knows no key could
hold all descriptors and all memory; a transport whose client reads nothing never closes by itself; and streams to
clients of HTTP/1.0 have lengths in them.
"""

from __future__ import annotations

import asyncio
from http import HTTPStatus
from typing import Any, ClassVar
from urllib.parse import unquote_to_bytes, urlsplit

from starlette.types import Scope
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol, RequestResponseCycle

SEPARATORS = len(b": \r\n")
ABORT = "deepserve_http.abort"
"""Key of the scope's extensions: a function that resets the connection."""


class Connection(HttpToolsProtocol):
    """head_timeout_s: for a whole head. body_timeout_s: for the next bytes of a body, longer than whoever reads one
    waits for them (`read_body`), who answers; not all are read. max_head_bytes: of a request's line and headers; also
    of what follows a body in chunks, and of all else that is no part of a body."""

    head_timeout_s: ClassVar[float] = 10.0
    body_timeout_s: ClassVar[float] = 45.0
    max_head_bytes: ClassVar[int] = 64 << 10

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self._timer: asyncio.TimerHandle | None = None
        self._head_bytes = 0
        """That have come since the last piece of a body, or the end of a head."""
        self._target = b""
        """Of the request that comes now, as far as it has come."""

    @classmethod
    def refusal(cls, status: int, message: str, path: str) -> bytes:
        """The JSON body of an error before any request is there that a route could answer: 431 or 400. `path`: decoded,
        as far as it has come; empty where nothing of it is known."""
        raise NotImplementedError

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        super().connection_made(transport)
        self._wait(self.head_timeout_s)

    def data_received(self, data: bytes) -> None:
        self._head_bytes += len(data)
        super().data_received(data)
        if self._is_too_large and not self.transport.is_closing():
            self._refuse()

    def on_message_begin(self) -> None:
        super().on_message_begin()
        self._target = b""
        if self._timer is None:
            self._wait(self.head_timeout_s)

    def on_url(self, url: bytes) -> None:
        super().on_url(url)
        self._target += url

    def on_headers_complete(self) -> None:
        self._head_bytes = len(self.url) + sum(len(name) + len(value) + SEPARATORS for name, value in self.headers)
        if self._is_too_large:  # all of it has come at once
            raise ValueError("head too large")  # the parser ends, and `send_400_response` is called
        self._head_bytes = 0
        self._wait(self.body_timeout_s)
        extensions: dict[str, Any] = {**self.scope.get("extensions", {}), ABORT: self.transport.abort}
        self.scope["extensions"] = extensions
        super().on_headers_complete()
        if self.cycle is not None and self.cycle.scope["http_version"] == "1.0":
            _write_no_chunks(self.cycle)

    def on_body(self, body: bytes) -> None:
        self._head_bytes = 0
        self._wait(self.body_timeout_s)
        super().on_body(body)

    def on_message_complete(self) -> None:
        self._stop_waiting()
        super().on_message_complete()
        self._target = b""  # what comes next may be no request

    def connection_lost(self, exc: Exception | None) -> None:
        self._stop_waiting()
        super().connection_lost(exc)

    def end_receiving(self) -> None:
        """Reset the connection if its request has not come to its end: there is nothing to answer yet."""
        if self.cycle is not None and self.cycle.more_body:
            self.transport.abort()

    def send_400_response(self, msg: str) -> None:
        self._refuse()

    @property
    def _is_too_large(self) -> bool:
        return self._head_bytes > self.max_head_bytes

    def _refuse(self) -> None:
        cycle = self.cycle
        is_first = not self.pipeline and (cycle is None or (cycle.more_body and not cycle.response_started))
        if is_first or cycle.response_complete:
            self.transport.write(self._answer())
            self.transport.close()
        else:  # an earlier request's answer is on its way, for which this one must not be taken
            self.transport.abort()

    def _answer(self) -> bytes:
        status, message = 400, "what came is no valid HTTP request"
        if self._is_too_large:
            status, message = 431, f"the head of the request is above {self.max_head_bytes} bytes"
        body = self.refusal(status, message, _path_of(self._target))
        head = f"HTTP/1.1 {status} {HTTPStatus(status).phrase}\r\ncontent-type: application/json\r\n"
        return f"{head}content-length: {len(body)}\r\nconnection: close\r\n\r\n".encode() + body

    def _wait(self, timeout_s: float) -> None:
        self._stop_waiting()
        self._timer = self.loop.call_later(timeout_s, self._give_up)

    def _give_up(self) -> None:
        if self.flow.read_paused:  # it is this side that does not read
            self._wait(self.body_timeout_s)
        else:
            self.transport.abort()

    def _stop_waiting(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None


def abort(scope: Scope) -> None:
    """Reset the connection of a request."""
    if (reset := scope.get("extensions", {}).get(ABORT)) is not None:
        reset()


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


def _path_of(target: bytes) -> str:
    """Of a request's line, which may have been cut off."""
    if not target.startswith(b"/"):  # as proxies are asked: with the scheme and the host
        try:
            target = urlsplit(target).path
        except ValueError:
            return ""
    return unquote_to_bytes(target.partition(b"?")[0]).decode(errors="replace")
