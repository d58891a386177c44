"""Answers that end when their client leaves, or stops reading."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Coroutine, Mapping
from typing import Any, TypeVar

from starlette.responses import Response
from starlette.types import Receive, Scope, Send

from deepserve_http.connection import abort

T = TypeVar("T")

CLOSED = 499
"""As nginx counts a client that left; nobody sees the response."""


async def while_connected(receive: Receive, work: Coroutine[Any, Any, T]) -> T | None:
    """The result of `work`; None, and `work` cancelled, when the client leaves before."""
    working = asyncio.ensure_future(work)
    leaving = asyncio.ensure_future(_left(receive))
    try:
        await asyncio.wait((working, leaving), return_when=asyncio.FIRST_COMPLETED)
        return working.result() if working.done() else None
    finally:
        leaving.cancel()
        if not working.done():
            working.cancel()
            await asyncio.wait((working,))


class EventStream(Response):
    """Server-sent events, each item of `events` one write; the next is asked for when the client has taken it.

    `close` is called however it ends, once. A client that takes nothing for `patience_s` is cut off.
    """

    def __init__(
        self,
        events: AsyncIterator[bytes],
        close: Callable[[], None],
        patience_s: float,
        headers: Mapping[str, str] | None = None,
    ) -> None:
        all_headers = {"cache-control": "no-cache", **(headers or {})}
        super().__init__(media_type="text/event-stream", headers=all_headers)
        del self.headers["content-length"]
        self._events = events
        self._close = close
        self._patience_s = patience_s

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        try:
            await send({"type": "http.response.start", "status": self.status_code, "headers": self.raw_headers})
            await while_connected(receive, self._send_all(scope, send))
        finally:
            self._close()

    async def _send_all(self, scope: Scope, send: Send) -> None:
        async for event in self._events:
            if not event:
                continue
            try:
                async with asyncio.timeout(self._patience_s):
                    await send({"type": "http.response.body", "body": event, "more_body": True})
            except TimeoutError:
                return abort(scope)
        await send({"type": "http.response.body", "body": b""})


async def _left(receive: Receive) -> None:
    while (await receive())["type"] != "http.disconnect":
        pass
