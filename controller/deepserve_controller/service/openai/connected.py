"""Answers that end when their client leaves, or stops reading."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine
from typing import Any, TypeVar

from starlette.responses import Response
from starlette.types import Receive, Scope, Send

from deepserve_controller.service.impatience import ABORT
from deepserve_controller.service.openai.exchange import Exchange
from deepserve_controller.service.openai.fault import Fault

T = TypeVar("T")
PATIENCE_S = 60.0
"""How long a reader may take nothing at all."""
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
    """Server-sent events: `first`, and what `exchange` gives after it. `close` is called however it ends."""

    def __init__(self, first: bytes, exchange: Exchange, headers: dict[str, str], close: Callable[[], None]) -> None:
        headers = {"cache-control": "no-cache", **exchange.headers, **headers}
        super().__init__(media_type="text/event-stream", headers=headers)
        del self.headers["content-length"]
        self._first = first
        self._exchange = exchange
        self._close = close

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        try:
            await send({"type": "http.response.start", "status": self.status_code, "headers": self.raw_headers})
            await while_connected(receive, self._send_all(scope, send))
        finally:
            self._close()

    async def _send_all(self, scope: Scope, send: Send) -> None:
        piece: bytes | None = self._first
        try:
            while piece is not None:
                await self._write(piece, send)
                self._exchange.written()
                try:
                    piece = await self._exchange.next()
                except Fault as fault:
                    await self._write(fault.event(), send)
                    break
            await send({"type": "http.response.body", "body": b""})
        except TimeoutError:
            if abort := scope.get("extensions", {}).get(ABORT):
                abort()

    async def _write(self, piece: bytes, send: Send) -> None:
        """Raises TimeoutError where the reader takes nothing."""
        async with asyncio.timeout(PATIENCE_S):
            await send({"type": "http.response.body", "body": piece, "more_body": True})


async def _left(receive: Receive) -> None:
    while (await receive())["type"] != "http.disconnect":
        pass
