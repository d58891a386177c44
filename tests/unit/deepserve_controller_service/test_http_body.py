"""A call over HTTP whose body does not come, or is too large."""

from __future__ import annotations

import asyncio
from typing import Any, cast

import pytest

from deepserve_controller.service import http_port
from deepserve_controller.service.bearer import Bearer
from deepserve_controller.service.http_port import HttpApp
from deepserve_controller.service.recipients import Recipients
from tests.unit.deepserve_controller_service.openai_peers import Asked


class Calls:
    """In place of Requests, and of all else that an HttpApp has: nothing is to reach it."""

    def __init__(self) -> None:
        self.opened: list[str] = []
        self.take = None  # of the other routes

    def lookup(self, app: str, function: str) -> tuple[str, str]:
        return f"fn-{app}-{function}", ""

    def open(self, link_id: str, message: Any, data: bytes) -> None:
        self.opened.append(message.request_id)


def ask(body: bytes) -> tuple[Asked, Calls]:
    calls = cast(Any, Calls())
    app = HttpApp(Bearer("key"), calls, calls, calls, Recipients(), calls, calls, cast(Any, calls))
    return Asked(app.asgi, "/api/call/shop/buy", body, "key"), calls


def test_a_body_that_stops_coming_is_not_waited_for(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(http_port, "BODY_PATIENCE_S", 0.01)

    async def test() -> None:
        asked, calls = ask(b"")
        asked._was_sent = True  # of the body, nothing comes
        await asyncio.wait_for(asked.done, 20)
        assert (asked.status, asked.error["code"]) == (408, "too_slow") and "0.01 s" in asked.error["text"]
        assert asked.headers["connection"] == "close" and not calls.opened

    asyncio.run(test())


def test_a_body_that_is_too_large_leaves_the_connection(monkeypatch: pytest.MonkeyPatch) -> None:
    """Its rest is read and dropped: a client that is still writing it would not see the answer otherwise."""
    monkeypatch.setattr(http_port, "MAX_BODY_BYTES", 10)

    async def test() -> None:
        asked, calls = ask(b'{"x": 123456}')
        await asyncio.wait_for(asked.done, 20)
        assert (asked.status, asked.error["code"]) == (413, "too_large")
        assert "connection" not in asked.headers and not calls.opened

    asyncio.run(test())
