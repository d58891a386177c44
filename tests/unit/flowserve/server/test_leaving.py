"""Clients that leave, read slowly or not at all; a server that ends; an engine that fails."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import Any

import pytest

from flowserve.server import body
from flowserve.server.api_error import ApiError
from flowserve.server.generation_api import GenerationApi
from tests.unit.flowserve.server.asgi import AsgiClient
from tests.unit.flowserve.server.streams import events, joined_text

PATH = "/v1/completions"
LONG = {"prompt": "Hello", "max_tokens": 480, "ignore_eos": True, "temperature": 0}
SHORT = {"prompt": "Hello", "max_tokens": 4, "ignore_eos": True, "temperature": 0}
TIMEOUT_S = 60


@asynccontextmanager
async def started(api: GenerationApi) -> AsyncIterator[GenerationApi]:
    """Its engine runs; at the end the thread must be gone."""
    api.engine.start()
    try:
        async with asyncio.timeout(TIMEOUT_S):
            yield api
    finally:
        await api.engine.close()
    assert not api.engine.is_alive


async def idle(api: GenerationApi) -> None:
    """Returns when the engine has nothing left, as it must after everybody left."""
    while api.engine.stats.running or api.engine.stats.waiting or api.engine.num_unfinished:
        await asyncio.sleep(0.001)


@pytest.mark.parametrize("stream", [False, True])
def test_a_client_that_leaves_ends_its_sequences(api: Callable[..., GenerationApi], stream: bool) -> None:
    async def run() -> None:
        async with started(api()) as running:
            # Several, so that they are not over before a busy machine has looked.
            client = AsgiClient(running.asgi, PATH, {**LONG, "n": 8, "temperature": 1, "stream": stream})
            if stream:
                await client.until_sent(2)
            else:
                while not running.engine.stats.running:
                    await asyncio.sleep(0.001)
            client.leave()
            await client.task
            await idle(running)
            assert b"[DONE]" not in client.body
            if not stream:
                assert client.status == 499
            other = AsgiClient(running.asgi, PATH, SHORT)
            await other.task
            assert other.status == 200

    asyncio.run(run())


def test_a_body_that_stops_coming_is_a_timeout(
    api: Callable[..., GenerationApi], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(body, "CHUNK_TIMEOUT_S", 0.05)

    async def run() -> None:
        async with started(api()) as running:
            for path in (PATH, "/tokenize"):
                client = AsgiClient(running.asgi, path, SHORT, is_whole=False)
                await client.task
                assert client.status == 408 and b"0.05 s" in client.body
                assert (b"connection", b"close") in client.sent[0]["headers"]

    asyncio.run(run())


def test_one_that_leaves_amid_its_body_is_nobody_s_fault(
    api: Callable[..., GenerationApi], capsys: pytest.CaptureFixture[str]
) -> None:
    async def run() -> None:
        async with started(api()) as running:
            client = AsgiClient(running.asgi, PATH, SHORT, is_whole=False)
            await asyncio.sleep(0)
            client.leave()
            await client.task
            assert client.status == 499

    asyncio.run(run())
    assert capsys.readouterr() == ("", "")


def test_one_that_leaves_before_its_prompt_is_in_is_forgotten(api: Callable[..., GenerationApi]) -> None:
    async def run() -> None:
        async with started(api()) as running:
            clients = [AsgiClient(running.asgi, PATH, {**LONG, "stream": True}) for _ in range(8)]
            for client in clients:
                client.leave()
            await asyncio.gather(*(client.task for client in clients))
            await idle(running)

    asyncio.run(run())


def test_a_slow_reader_gets_several_tokens_per_event_and_loses_none(api: Callable[..., GenerationApi]) -> None:
    async def run() -> None:
        async with started(api()) as running:
            asked = {**LONG, "max_tokens": 200}
            whole = AsgiClient(running.asgi, PATH, asked)
            slow = AsgiClient(running.asgi, PATH, {**asked, "stream": True}, room=2)
            await whole.task
            await idle(running)  # it was generated to its end although nobody took it
            slow.take(1000)
            await slow.task
            chunks = events(slow.body.decode())
            assert joined_text(chunks) == json.loads(whole.body)["choices"][0]["text"]
            assert len(chunks) <= 3, "what waited must come as one event"

    asyncio.run(run())


def test_what_a_reader_leaves_behind_is_bounded(api: Callable[..., GenerationApi]) -> None:
    async def run() -> None:
        async with started(api(max_unsent=100)) as running:
            slow = AsgiClient(running.asgi, PATH, {**LONG, "stream": True}, room=2)
            await slow.until_sent(2)
            await idle(running)  # aborted: the text of 480 tokens is longer than that
            slow.take(1000)
            await slow.task
            *_, last = events(slow.body.decode())
            assert last["error"]["code"] == "slow_reader"
            other = AsgiClient(running.asgi, PATH, SHORT)
            await other.task
            assert other.status == 200, "only the slow one is cut off"

    asyncio.run(run())


def test_a_reader_that_takes_nothing_is_reset(api: Callable[..., GenerationApi]) -> None:
    async def run() -> None:
        async with started(api(patience_s=0.05)) as running:
            stuck = AsgiClient(running.asgi, PATH, {**LONG, "stream": True}, room=2)
            await stuck.task
            assert stuck.was_reset
            await idle(running)

    asyncio.run(run())


def test_a_full_queue_is_said_with_a_time_to_come_again(api: Callable[..., GenerationApi]) -> None:
    async def run() -> None:
        async with started(api(engine={"max_num_sequences": 1}, max_queue=1)) as running:
            first = [AsgiClient(running.asgi, PATH, {**LONG, "stream": True}) for _ in range(2)]
            while running.engine.num_unfinished < 2:
                await asyncio.sleep(0.001)
            refused = AsgiClient(running.asgi, PATH, SHORT)
            await refused.task
            assert refused.status == 503 and (b"retry-after", b"1") in refused.sent[0]["headers"]
            assert b'"code":"queue_full"' in refused.body
            for client in first:
                client.leave()
            await asyncio.gather(*(client.task for client in first))
            again = AsgiClient(running.asgi, PATH, SHORT)
            await again.task
            assert again.status == 200

    asyncio.run(run())


@pytest.mark.parametrize("stream", [False, True])
def test_a_server_that_ends_says_so(api: Callable[..., GenerationApi], stream: bool) -> None:
    async def run() -> None:
        async with started(api()) as running:
            # Several, so that they are not over before a busy machine has looked.
            client = AsgiClient(running.asgi, PATH, {**LONG, "n": 8, "temperature": 1, "stream": stream})
            while not running.engine.stats.running:
                await asyncio.sleep(0.001)
            running.engine.end_all("the server is shutting down")
            await client.task
            assert b"shutting down" in client.body
            assert client.status == 503 or (stream and client.status == 200)  # the stream may have begun
            late = AsgiClient(running.asgi, PATH, SHORT)
            await late.task
            assert late.status == 503

    asyncio.run(run())


@pytest.mark.parametrize("stream", [False, True])
def test_a_step_that_fails_ends_its_requests_and_the_next_go_on(
    api: Callable[..., GenerationApi], stream: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def run() -> None:
        running = api()
        engine: Any = running.engine._engine
        step, has_failed = engine.step, False

        def failing_step() -> Any:
            nonlocal has_failed
            if engine.stats().running == 2 and not has_failed:
                has_failed = True
                raise RuntimeError("out of luck")
            return step()

        monkeypatch.setattr(engine, "step", failing_step)
        async with started(running):
            clients = [AsgiClient(running.asgi, PATH, {**LONG, "stream": stream}) for _ in range(2)]
            await asyncio.gather(*(client.task for client in clients))
            for client in clients:
                assert b"out of luck" in client.body
                assert client.status == 500 or (stream and client.status == 200)  # the stream may have begun
            other = AsgiClient(running.asgi, PATH, SHORT)
            await other.task
            assert other.status == 200

    asyncio.run(run())


def test_an_engine_whose_thread_ends_answers_everybody_with_that(
    api: Callable[..., GenerationApi], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    async def run() -> None:
        running = api()
        engine: Any = running.engine._engine

        def crash() -> Any:
            raise SystemExit("a crash")

        monkeypatch.setattr(engine, "step", crash)
        async with started(running):
            for _ in range(2):
                client = AsgiClient(running.asgi, PATH, SHORT)
                await asyncio.wait_for(client.task, 20)
                assert client.status == 503 and b"the engine has ended" in client.body
            assert not running.engine.is_ready

    asyncio.run(run())
    assert "SystemExit: a crash" in capsys.readouterr().err


def test_many_at_once_get_their_own_answers(api: Callable[..., GenerationApi], generate: Callable[..., str]) -> None:
    prompts = ["Hello", "What is", "Grüße", "def square", "0123", "{"]
    expected = {prompt: generate(prompt, max_tokens=20) for prompt in prompts}

    async def run() -> None:
        async with started(api(engine={"max_num_sequences": 4})) as running:
            clients = [
                AsgiClient(running.asgi, PATH, {"prompt": p, "max_tokens": 20, "temperature": 0, "stream": True})
                for p in prompts * 4
            ]
            await asyncio.gather(*(client.task for client in clients))
            for prompt, client in zip(prompts * 4, clients, strict=True):
                assert joined_text(events(client.body.decode())) == expected[prompt]

    asyncio.run(run())


def test_calls_behind_a_crash_are_answered(api: Callable[..., GenerationApi]) -> None:
    def crash(engine: Any) -> None:
        raise SystemExit("a crash")

    async def run() -> None:
        async with started(api()) as running:
            works: list[Callable[[Any], Any]] = [crash, lambda engine: engine.stats(), lambda engine: 1]
            calls = [asyncio.ensure_future(running.engine.call(work)) for work in works]
            for error in await asyncio.gather(*calls, return_exceptions=True):
                assert isinstance(error, ApiError) and error.status == 503 and "has ended" in str(error)

    asyncio.run(run())


def test_an_answer_that_cannot_be_given_takes_no_other_with_it(
    api: Callable[..., GenerationApi], monkeypatch: pytest.MonkeyPatch
) -> None:
    async def run() -> None:
        async with started(api()) as running:
            note, has_failed = running.engine._metrics.output, False

            def failing(*options: Any) -> None:
                nonlocal has_failed
                if not has_failed:
                    has_failed = True
                    raise ValueError("no such number")
                note(*options)

            def fail() -> None:
                raise ValueError("no such news")

            monkeypatch.setattr(running.engine._metrics, "output", failing)
            clients = [AsgiClient(running.asgi, PATH, SHORT) for _ in range(3)]
            running.engine._tell(fail)
            await asyncio.gather(*(client.task for client in clients))
            assert sorted(str(client.status) for client in clients) == ["200", "200", "500"]
            (failed,) = [client for client in clients if client.status == 500]
            assert b"no such number" in failed.body
            await idle(running)

    asyncio.run(run())
