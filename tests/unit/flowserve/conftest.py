"""Tiny models in three architectures, transformers as oracle, engines whose books are checked as the test ends."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.tiny_models import make_model


@pytest.fixture(scope="session")
def models(tmp_path_factory: pytest.TempPathFactory) -> Callable[..., Path]:
    """`models("llama", **config)`: the folder of a tiny model, made once per session. Do not write into it."""
    root, made = tmp_path_factory.mktemp("models"), {}

    def get(architecture: str = "llama", **config: Any) -> Path:
        key = (architecture, repr(sorted(config.items())))
        if key not in made:
            made[key] = make_model(root / str(len(made)), architecture, **config)
        return made[key]

    return get


@pytest.fixture
def engine(models: Callable[..., Path]) -> Iterator[Callable[..., Any]]:
    """`engine(**options)`: an engine on one thread; `model=` a folder, else the tiny Llama."""
    from flowserve import Engine, EngineConfig

    built = []

    def build(model: Path | None = None, **options: Any) -> Any:
        built.append(Engine.from_folder(model or models(), EngineConfig(num_threads=1, **options)))
        return built[-1]

    yield build
    for each in built:
        each.check_invariants()


@pytest.fixture
def llm(models: Callable[..., Path]) -> Iterator[Callable[..., Any]]:
    """`llm(**options)`: an LLM on one thread over the tiny Llama, or over `model=`."""
    from flowserve import LLM

    built = []

    def build(model: Path | None = None, **options: Any) -> Any:
        built.append(LLM(model or models(), num_threads=1, **options))
        return built[-1]

    yield build
    for each in built:
        each.engine.check_invariants()
        assert each.engine.stats().free_blocks == each.engine.stats().total_blocks, "blocks leaked"
