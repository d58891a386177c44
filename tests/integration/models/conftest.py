"""One random tiny model for all tests of the folder, and the controller that the first of them starts."""

from __future__ import annotations

import gc
from collections.abc import Iterator
from pathlib import Path

import pytest

pytest.importorskip("torch")

import deepserve  # noqa: E402
from deepserve import _current_client  # noqa: E402
from tests.tiny_models import make_model  # noqa: E402


@pytest.fixture(scope="package")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_model(tmp_path_factory.mktemp("models") / "tiny", "qwen3")


@pytest.fixture(scope="package")
def llm(folder: Path) -> deepserve.Model:
    return deepserve.Model("tiny", source=folder)


@pytest.fixture(autouse=True)
def nothing_left_open() -> Iterator[None]:
    """However a request ends, its caller's process must not go on holding it."""
    held = held_requests()  # by calls of other tests, whose errors live until the next collection
    yield
    if held_requests() - held:
        gc.collect()
    assert not held_requests() - held


def held_requests() -> set[str]:
    client = _current_client.installed_client()
    return client.inboxes.request_ids if client is not None else set()
