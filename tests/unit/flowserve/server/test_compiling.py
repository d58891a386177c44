"""What takes long to compile keeps its own request waiting, and nobody else's."""

from __future__ import annotations

import asyncio
import json
import re
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from flowserve import SamplingParams, structured
from flowserve.params_compiler import Compiled, ParamsCompiler
from flowserve.server.generation_api import GenerationApi
from flowserve.structured import GrammarCompiler
from flowserve.tokenizer import Tokenizer
from tests.unit.flowserve.server.asgi import AsgiClient
from tests.unit.flowserve.server.test_leaving import PATH, SHORT, idle, started

SLOW, QUICK = "[a-c]{3}", "[d-f]{4}"


def asking(regex: str) -> dict[str, Any]:
    return {**SHORT, "ignore_eos": False, "max_tokens": 20, "structured_outputs": {"regex": regex}}


def text_of(client: AsgiClient) -> str:
    assert client.status == 200, client.body
    return str(json.loads(client.body)["choices"][0]["text"])


class Held:
    """Compiling SLOW goes on until `release`."""

    def __init__(self) -> None:
        self.compiled: list[str] = []
        self.begun, self.release = threading.Event(), threading.Event()
        self._compile = structured._compile

    def __call__(self, grammar: str, tokenizer: Any) -> Any:
        self.compiled.append(grammar)
        if SLOW in grammar:
            self.begun.set()
            assert self.release.wait(60)
        return self._compile(grammar, tokenizer)


@pytest.fixture
def held(monkeypatch: pytest.MonkeyPatch) -> Iterator[Held]:
    each = Held()
    monkeypatch.setattr(structured, "_compile", each)
    yield each
    each.release.set()


def test_others_go_on_with_the_same_tokens(
    api: Callable[..., GenerationApi], held: Held, generate: Callable[..., str]
) -> None:
    async def run() -> None:
        async with started(api()) as running:
            slow = AsgiClient(running.asgi, PATH, asking(SLOW))
            await asyncio.to_thread(held.begun.wait)
            other = AsgiClient(running.asgi, PATH, SHORT)
            await other.task
            assert text_of(other) == generate("Hello", max_tokens=4, ignore_eos=True)
            assert not slow.task.done()
            held.release.set()
            await slow.task
            assert re.fullmatch(SLOW, text_of(slow))
            await idle(running)

    asyncio.run(run())


def test_clients_that_leave_meanwhile_are_forgotten_and_what_has_not_begun_is_not_compiled(
    api: Callable[..., GenerationApi], held: Held
) -> None:
    async def run() -> None:
        async with started(api()) as running:
            leaving = [AsgiClient(running.asgi, PATH, asking(regex)) for regex in (SLOW, QUICK)]
            await asyncio.to_thread(held.begun.wait)
            other = AsgiClient(running.asgi, PATH, SHORT)  # its tokens come when the two are with the engine's thread
            await other.task
            for client in leaving:
                client.leave()
                await client.task
            last = AsgiClient(running.asgi, PATH, SHORT)  # and then they have been taken back there
            await last.task
            assert not running.engine._compiling
            held.release.set()
            again = AsgiClient(running.asgi, PATH, asking("[x-z]{2}"))
            await again.task
            assert re.fullmatch("[x-z]{2}", text_of(again))
            assert not any(QUICK in grammar for grammar in held.compiled)
            await idle(running)

    asyncio.run(run())


def test_a_grammar_that_cannot_be_compiled_is_the_requests_fault(api: Callable[..., GenerationApi]) -> None:
    async def run() -> None:
        async with started(api()) as running:
            bad = AsgiClient(running.asgi, PATH, {**asking(r"[^\s\S]"), "stream": True})
            await bad.task
            assert bad.status == 400 and "no output fits" in bad.body.decode()
            await idle(running)

    asyncio.run(run())


def test_the_same_grammar_is_compiled_once(api: Callable[..., GenerationApi], held: Held) -> None:
    async def run() -> None:
        async with started(api()) as running:
            for _ in range(3):
                client = AsgiClient(running.asgi, PATH, {**asking(QUICK), "prompt": ["a", "b"]})
                await client.task
                assert re.fullmatch(QUICK, text_of(client))
            assert len(held.compiled) == 1

    asyncio.run(run())


@pytest.mark.parametrize(
    "wanted", [{"bad_words": [f"word {n}" for n in range(200)]}, {"stop": [f"stop {n}" for n in range(200)]}]
)
def test_many_words_are_compiled_beside_the_engine(
    api: Callable[..., GenerationApi], monkeypatch: pytest.MonkeyPatch, wanted: dict[str, Any]
) -> None:
    threads = []
    compile_all = ParamsCompiler.compile

    def noting(self: ParamsCompiler, params: SamplingParams) -> Compiled:
        threads.append(threading.current_thread().name)
        return compile_all(self, params)

    monkeypatch.setattr(ParamsCompiler, "compile", noting)

    async def run() -> None:
        async with started(api()) as running:
            for more in (wanted, {name: words[:3] for name, words in wanted.items()}):
                client = AsgiClient(running.asgi, PATH, {**SHORT, **more})
                await client.task
                assert client.status == 200
            await idle(running)

    asyncio.run(run())
    long, short = threads
    assert long.startswith("flowserve-compiler") and not short.startswith("flowserve-compiler")


def test_the_words_of_several_prompts_are_looked_up_once(models: Callable[..., Path]) -> None:
    tokenizer = Tokenizer.from_folder(models())
    compiler = ParamsCompiler(tokenizer, GrammarCompiler(tokenizer, 400, ()))
    params = SamplingParams(bad_words=["fox", " dog"], stop=["END"])
    first, second = compiler.compile(params), compiler.compile(params)
    assert first.bad_words is second.bad_words and first.stop is second.stop and first.grammar is None
    found = {tuple(tokenizer.encode(text, add_special_tokens=False)) for text in ("fox", " fox", "dog", " dog")}
    table = first.bad_words
    assert table is not None
    listed = {(int(token_id),) for token_id in table.alone} | {
        word for words in table.behind.values() for word in words
    }
    assert listed == found
    assert compiler.submit(params) is None and compiler.compile(SamplingParams()) == Compiled()
    compiler.close()
