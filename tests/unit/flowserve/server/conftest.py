"""One server over the tiny Qwen3, in this process."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from starlette.testclient import TestClient

pytest.importorskip("torch")

from flowserve import LLM, Engine, EngineConfig, SamplingParams  # noqa: E402
from flowserve.server.app import ServerConfig  # noqa: E402
from flowserve.server.generation_api import GenerationApi  # noqa: E402

NAME = "tiny"


@pytest.fixture
def api(models: Callable[..., Path]) -> Iterator[Callable[..., GenerationApi]]:
    """`api(**options)`: options of ServerConfig, `engine=` those of EngineConfig. Afterwards nothing may be left."""
    built = []

    def build(*, engine: dict[str, Any] | None = None, **options: Any) -> GenerationApi:
        folder = models("qwen3")
        loaded = Engine.from_folder(folder, EngineConfig(num_threads=1, seed=1, **(engine or {})))
        built.append((GenerationApi(loaded, folder, ServerConfig(names=(NAME,), **options)), loaded))
        return built[-1][0]

    yield build
    for _, loaded in built:
        loaded.check_invariants()
        assert not loaded.has_work, "a sequence nobody waits for"
        assert loaded.stats().free_blocks == loaded.stats().total_blocks, "blocks leaked"


@pytest.fixture
def client(api: Callable[..., GenerationApi]) -> Iterator[Callable[..., TestClient]]:
    """`client(**options)`: as `api`, running."""
    running: list[TestClient] = []

    def build(**options: Any) -> TestClient:
        running.append(TestClient(api(**options).asgi, raise_server_exceptions=False))
        running[-1].__enter__()
        return running[-1]

    yield build
    for each in running:
        each.__exit__(None, None, None)


@pytest.fixture
def generate(models: Callable[..., Path]) -> Callable[..., str]:
    """`generate(prompt, **params)`: what the engine alone says to a text, greedily."""
    llm = LLM(models("qwen3"), num_threads=1)

    def run(prompt: str | list[int], **params: Any) -> str:
        return llm.generate([prompt], SamplingParams(temperature=0.0, **params))[0].outputs[0].text

    return run


@pytest.fixture
def answer(models: Callable[..., Path]) -> Callable[..., str]:
    """`answer(messages, **params)`: what the engine alone answers, greedily."""
    llm = LLM(models("qwen3"), num_threads=1)

    def run(messages: list[dict[str, Any]], tools: list[dict[str, Any]] | None = None, **params: Any) -> str:
        return llm.chat(messages, SamplingParams(temperature=0.0, **params), tools=tools)[0].outputs[0].text

    return run
