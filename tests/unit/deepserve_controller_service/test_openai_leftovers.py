"""What the gateway does with what was lost on its way or does not come, and what it does not keep."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Awaitable, Callable
from types import SimpleNamespace
from typing import Any, cast

import pytest

from deepserve.protocol.messages import Outcome, RequestFinished, StreamItems, Timings, Value
from deepserve.protocol.specs import FunctionSpec
from deepserve_controller.service.openai import body
from tests.unit.deepserve_controller_service.openai_peers import Asked, Setup

ASKED = {"model": "tiny", "messages": [{"role": "user", "content": "hi"}]}
GONE = Value("msgpack", 10, segment="v-1-gone")


def run(test: Callable[[Setup], Awaitable[None]]) -> None:
    async def main() -> None:
        setup = Setup()
        # As `Segments.take` of a segment that is gone, or cannot be opened.
        cast(Any, setup.exchanges)._segments = SimpleNamespace(take=lambda value: b"")
        await asyncio.wait_for(test(setup), 20)
        setup.check_nothing_left()

    asyncio.run(main())


def ask(setup: Setup, **changes: Any) -> Asked:
    return Asked(setup.gateway.asgi, "/chat/completions", json.dumps({**ASKED, **changes}).encode(), setup.secret)


async def opened(setup: Setup) -> str:
    while not setup.pods.opened:
        await asyncio.sleep(0)
    return next(iter(setup.pods.opened))


@pytest.mark.parametrize(
    "lost",
    [
        lambda name: StreamItems(name, 0, (GONE,)),
        lambda name: RequestFinished(name, Outcome("ok"), Timings(), GONE),
        lambda name: RequestFinished(name, Outcome("error", "x"), Timings(), GONE),
    ],
)
def test_an_answer_whose_segment_is_gone_ends_with_an_error(lost: Callable[[str], Any]) -> None:
    async def test(setup: Setup) -> None:
        asked = ask(setup)
        setup.exchanges.send(lost(await opened(setup)))
        await asked.done
        assert (asked.status, asked.error["code"]) == (500, "answer_lost")

    run(test)


def test_a_body_that_stops_coming(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(body, "BODY_PATIENCE_S", 0.01)

    async def test(setup: Setup) -> None:
        asked = ask(setup)
        asked._was_sent = True  # of the body, nothing comes
        await asked.done
        assert (asked.status, asked.error["code"]) == (408, "request_timeout")
        assert asked.headers["connection"] == "close" and not setup.pods.opened

    run(test)


def test_a_long_name_is_not_said_back() -> None:
    async def test(setup: Setup) -> None:
        asked = ask(setup, model="x" * 10_000)
        await asked.done
        assert asked.status == 404 and len(asked.body) < 1000
        assert "'" + "x" * 100 + "...'" in asked.error["message"] and "there is: tiny" in asked.error["message"]

    run(test)


def test_models_that_were_removed_are_forgotten() -> None:
    async def test(setup: Setup) -> None:
        gateway = cast(Any, setup.gateway)
        specs = gateway._models._functions.specs
        is_there = gateway._cores.cluster_manager.function_view
        gateway._cores.cluster_manager.function_view = lambda name: is_there(name) if name in specs else None

        async def use(function_id: str) -> None:
            setup.pods.on_open = setup.pods.end
            asked, listed = ask(setup), Asked(gateway.asgi, "/models", None, setup.secret)
            await asked.done
            await listed.done
            assert asked.status == 200 and function_id in gateway._admissions

        await use("fn-tiny")
        specs["fn-newer"] = cast(FunctionSpec, specs.pop("fn-tiny"))
        await use("fn-newer")
        assert list(gateway._admissions) == list(gateway._models._seen_at) == ["fn-newer"]

    run(test)


def test_a_process_has_one_key_however_often_it_asks() -> None:
    async def test(setup: Setup) -> None:
        for link_id in ("link-1", "link-2"):
            setup.recipients.add(link_id, setup.exchanges)
        first, again, other = (setup.keys.new_for(link_id) for link_id in ("link-1", "link-1", "link-2"))
        assert first == again != other
        found = [setup.keys.find(secret) for secret in (first, other)]
        assert [key.link_id for key in found if key is not None] == ["link-1", "link-2"]
        assert len(setup.keys._by_digest) == 3
        setup.recipients.remove("link-1")
        assert setup.keys.find(first) is None and setup.keys.find(other) is not None

    run(test)


def test_the_limits_of_a_revoked_key_are_forgotten() -> None:
    async def test(setup: Setup) -> None:
        key, setup.secret = setup.keys.new("limited", tokens_per_minute=1000)
        asked = ask(setup)
        await opened(setup)
        setup.keys.revoke(key.key_id)
        await asked.done
        assert asked.status == 401 and not cast(Any, setup.gateway)._limits._limits

    run(test)
