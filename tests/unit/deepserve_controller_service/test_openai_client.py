"""OpenAI's own client against the gateway, without pods: limits and refusals are the client's own exceptions."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Awaitable, Callable
from typing import Any

import pytest

openai = pytest.importorskip("openai")

import httpx2  # noqa: E402

from deepserve_controller.service.openai import admission  # noqa: E402
from tests.unit.deepserve_controller_service.openai_peers import Setup  # noqa: E402

ASKED: dict[str, Any] = {"model": "tiny", "messages": [{"role": "user", "content": "hi"}], "max_tokens": 10}
CHUNK = {"id": "c-1", "object": "chat.completion.chunk", "created": 1, "model": "tiny"}


def run(test: Callable[[Setup, Callable[[str], Any]], Awaitable[None]], **options: Any) -> None:
    async def main() -> None:
        setup = Setup(**options)
        web = httpx2.AsyncClient(transport=httpx2.ASGITransport(setup.gateway.asgi))

        def client(secret: str, **more: Any) -> Any:
            options = {"base_url": "http://gateway", "max_retries": 0, **more}
            return openai.AsyncOpenAI(api_key=secret, http_client=web, **options)

        await asyncio.wait_for(test(setup, client), 20)
        await web.aclose()
        setup.check_nothing_left()

    asyncio.run(main())


def answer_at_once(setup: Setup) -> None:
    whole = {**CHUNK, "object": "chat.completion", "choices": []}

    def answer(request_id: str) -> None:
        setup.pods.items(request_id, json.dumps(whole).encode())
        setup.pods.end(request_id)

    setup.pods.on_open = answer


async def opened(setup: Setup, number: int) -> list[str]:
    await until(lambda: len(setup.pods.opened) >= number)
    return list(setup.pods.opened)


async def until(is_so: Callable[[], bool]) -> None:
    while not is_so():
        await asyncio.sleep(0.001)  # the client's own threads come to their turn


def test_limits_of_a_key_say_when_to_come_again() -> None:
    async def test(setup: Setup, client: Callable[[str], Any]) -> None:
        answer_at_once(setup)
        limited = client(setup.keys.new("slow", requests_per_minute=1)[1])
        assert (await limited.chat.completions.create(**ASKED)).id == "c-1"
        with pytest.raises(openai.RateLimitError) as caught:
            await limited.chat.completions.create(**ASKED)
        assert caught.value.code == "rate_limit_exceeded"
        assert 1 <= int(caught.value.response.headers["retry-after"]) <= 60

    run(test)


def test_a_client_that_is_told_to_come_again_does(monkeypatch: pytest.MonkeyPatch) -> None:
    """By its own retries, as soon as the header says."""
    waits: list[float] = []

    async def sleep(delay_s: float) -> None:
        waits.append(delay_s)

    monkeypatch.setattr("anyio.sleep", sleep)

    async def test(setup: Setup, client: Callable[..., Any]) -> None:
        answer_at_once(setup)
        patient = client(setup.keys.new("slow", requests_per_minute=1)[1], max_retries=1)
        await patient.chat.completions.create(**ASKED)
        with pytest.raises(openai.RateLimitError) as caught:
            await patient.chat.completions.create(**ASKED)
        assert waits == [int(caught.value.response.headers["retry-after"])]

    run(test)


def test_queues_that_are_full(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(admission, "MAX_WAITING_PER_KEY", 2)
    monkeypatch.setattr(admission, "MAX_WAITING", 2)

    async def test(setup: Setup, client: Callable[[str], Any]) -> None:
        one, other = client(setup.secret), client(setup.keys.new("other")[1])
        asked = [asyncio.ensure_future(one.chat.completions.create(**ASKED)) for _ in range(3)]
        await until(lambda: setup.num_waiting == 2)
        with pytest.raises(openai.RateLimitError, match="of this key wait"):
            await one.chat.completions.create(**ASKED)
        asked.append(asyncio.ensure_future(other.chat.completions.create(**ASKED)))
        await opened(setup, 2)  # below its share, it need not wait
        with pytest.raises(openai.InternalServerError) as full:
            await other.chat.completions.create(**ASKED)
        assert (full.value.status_code, full.value.code) == (503, "queue_full")
        assert full.value.response.headers["retry-after"] == "1"
        answer_at_once(setup)
        for request_id in list(setup.pods.opened):
            setup.pods.on_open(request_id)
        for each in asked:
            assert (await each).id == "c-1"

    run(test, ready_slots=1)


def test_what_a_key_may_not_do() -> None:
    async def test(setup: Setup, client: Callable[[str], Any]) -> None:
        answer_at_once(setup)
        reader = client(setup.keys.new("reader", scopes=["models"])[1])
        assert [model.id async for model in reader.models.list()] == ["tiny"]
        for refused in (
            reader.chat.completions.create(**ASKED),
            reader.completions.create(model="tiny", prompt="x"),
            reader.responses.create(model="tiny", input="x"),
            reader.embeddings.create(model="tiny", input="x"),
            reader.post("/tokenize", body={"model": "tiny", "prompt": "x"}, cast_to=object),
        ):
            with pytest.raises(openai.PermissionDeniedError) as caught:
                await refused
            assert caught.value.code == "insufficient_permissions"
        blind = client(setup.keys.new("blind", models=["other"])[1])
        with pytest.raises(openai.NotFoundError) as unseen:
            await blind.chat.completions.create(**ASKED)
        assert unseen.value.code == "model_not_found"
        with pytest.raises(openai.AuthenticationError):
            await client("sk-nobody").models.list()

    run(test)


def test_a_key_that_is_revoked_amid_a_stream() -> None:
    async def test(setup: Setup, client: Callable[[str], Any]) -> None:
        made, secret = setup.keys.new("leaving")
        asking = asyncio.ensure_future(client(secret).chat.completions.create(**ASKED, stream=True))
        [request_id] = await opened(setup, 1)
        delta = {"index": 0, "delta": {"content": "half"}, "finish_reason": None}
        setup.pods.items(request_id, b"data: " + json.dumps({**CHUNK, "choices": [delta]}).encode() + b"\n\n")
        setup.keys.revoke(made.key_id)
        with pytest.raises(openai.APIError, match="revoked"):
            async for chunk in await asking:
                assert chunk.choices[0].delta.content == "half"

    run(test)


def test_urgent_requests_of_a_key_come_first() -> None:
    """Before its own others, once there is room; not before those of other keys."""

    async def test(setup: Setup, client: Callable[[str], Any]) -> None:
        mine = client(setup.secret)
        asked = []
        for number, priority in enumerate((0, 5, 0, -3)):
            body = {"messages": [{"role": "user", "content": f"number {number}"}], "extra_body": {"priority": priority}}
            asked.append(asyncio.ensure_future(mine.chat.completions.create(**{**ASKED, **body})))
            await until(lambda number=number: len(setup.pods.opened) == 1 and setup.num_waiting == number)
        answer_at_once(setup)
        setup.pods.on_open(next(iter(setup.pods.opened)))
        for each in asked:
            await each
        order = [json.loads(body)["messages"][0]["content"] for body in setup.pods.bodies.values()]
        assert order == ["number 0", "number 3", "number 2", "number 1"]

    run(test, ready_slots=1)
