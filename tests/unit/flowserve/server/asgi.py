"""A client of an ASGI application that can leave, and can refuse to take what is sent."""

from __future__ import annotations

import asyncio
import json
from typing import Any

from deepserve_http.connection import ABORT


class AsgiClient:
    """One request. `leave` disconnects it; `take` lets that many more messages of the answer through."""

    def __init__(
        self, app: Any, path: str, asked: dict[str, Any], *, room: int | None = None, is_whole: bool = True
    ) -> None:
        """is_whole: the body; else the rest of it never comes."""
        self.sent: list[dict[str, Any]] = []
        self.was_reset = False
        self._body: list[dict[str, Any]] = [
            {"type": "http.request", "body": json.dumps(asked).encode(), "more_body": not is_whole}
        ]
        self._left = asyncio.Event()
        self._room = asyncio.Semaphore(room) if room is not None else None
        self._news = asyncio.Event()
        scope = {
            "type": "http",
            "method": "POST",
            "path": path,
            "raw_path": path.encode(),
            "query_string": b"",
            "headers": [],
            "extensions": {ABORT: self._reset},
        }
        self.task = asyncio.ensure_future(app(scope, self._receive, self._send))

    @property
    def status(self) -> int:
        return int(self.sent[0]["status"])

    @property
    def body(self) -> bytes:
        return b"".join(message.get("body", b"") for message in self.sent)

    def leave(self) -> None:
        self._left.set()

    def take(self, num_messages: int) -> None:
        assert self._room is not None
        for _ in range(num_messages):
            self._room.release()

    async def until_sent(self, num_messages: int) -> None:
        while len(self.sent) < num_messages:
            self._news.clear()
            await self._news.wait()

    async def _receive(self) -> dict[str, Any]:
        if self._body:
            return self._body.pop()
        await self._left.wait()
        return {"type": "http.disconnect"}

    async def _send(self, message: dict[str, Any]) -> None:
        if self._room is not None:
            await self._room.acquire()
        self.sent.append(message)
        self._news.set()

    def _reset(self) -> None:
        self.was_reset = True
