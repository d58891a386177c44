"""Requests that share a model: pieces in turn, each with its own vectors, and nothing of what is left."""

from __future__ import annotations

import random
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from flowserve import EmbeddingModel
from flowserve.embedding_queue import MAX_BATCHES, EmbeddingQueue


@pytest.fixture(scope="module")
def model(models: Callable[..., Path]) -> EmbeddingModel:
    return EmbeddingModel(models(), num_threads=1)


@pytest.fixture(autouse=True)
def small_pieces(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("flowserve.embedding_queue.PIECE_S", 0.0)
    monkeypatch.setattr("flowserve.embedding_model._CPU_PIECE_MULTIPLICATIONS", 1)
    monkeypatch.setattr("flowserve.embedding_model._CPU_TURN_TOKENS", 100)


def text(length: int, first: int = 5) -> list[int]:
    return [first + number % 300 for number in range(length)]


def test_every_request_gets_its_own_vectors(model: EmbeddingModel) -> None:
    draw = random.Random(7)
    asked = {key: [text(draw.randint(1, 120), key) for _ in range(draw.randint(1, 9))] for key in range(12)}
    queue: EmbeddingQueue[int] = EmbeddingQueue(model)
    found: dict[int, Any] = {}
    waiting = list(asked)
    while waiting or not queue.is_empty:
        if waiting and draw.random() < 0.3:
            queue.add(waiting[0], asked[waiting.pop(0)])
        for outcome in queue.advance():
            assert outcome.error is None
            found[outcome.key] = outcome.vectors
        assert len(queue._under_way) <= MAX_BATCHES
    for key, prompts in asked.items():
        for vector, want in zip(found.pop(key), model.embed(prompts), strict=True):
            assert vector == pytest.approx(want, abs=1e-5)
    assert not found and queue.advance() == []


def test_a_short_text_overtakes_a_long_one(model: EmbeddingModel) -> None:
    queue: EmbeddingQueue[str] = EmbeddingQueue(model)
    queue.add("long", [text(500)])
    assert queue.advance() == []
    queue.add("short", [text(3)])
    ended = [outcome.key for _ in range(6) for outcome in queue.advance()]
    assert ended == ["short"], "two layers are two pieces of its own, in turn with those of the long one"


def test_what_is_dropped_is_not_computed(model: EmbeddingModel, monkeypatch: pytest.MonkeyPatch) -> None:
    queue: EmbeddingQueue[str] = EmbeddingQueue(model)
    queue.add("left", [text(90)] * 5)
    queue.advance()
    queue.add("other", [text(90, 9)])
    queue.drop("left")
    queue.drop("nobody")
    began = []
    begin = model.begin
    monkeypatch.setattr(model, "begin", lambda prompts: (began.append(prompts), begin(prompts))[1])
    outcomes = []
    while not queue.is_empty:
        outcomes += queue.advance()
    assert [outcome.key for outcome in outcomes] == ["other"] and began == [[text(90, 9)]]


def test_one_of_a_batch_may_leave(model: EmbeddingModel) -> None:
    queue: EmbeddingQueue[str] = EmbeddingQueue(model)
    for key in ("one", "left", "two"):
        queue.add(key, [text(20, ord(key[0]))])
    queue.advance()
    queue.drop("left")
    found = {}
    while not queue.is_empty:
        found.update((outcome.key, outcome.vectors[0]) for outcome in queue.advance())
    assert found.keys() == {"one", "two"}
    for key, vector in found.items():
        assert vector == pytest.approx(model.embed([text(20, ord(key[0]))])[0], abs=1e-5)


def test_a_batch_that_breaks_ends_those_in_it(model: EmbeddingModel) -> None:
    queue: EmbeddingQueue[str] = EmbeddingQueue(model)
    queue.add("broken", [text(50), [10**6]])
    queue.add("whole", [text(100)])
    outcomes = {}
    while not queue.is_empty:
        outcomes.update((outcome.key, outcome) for outcome in queue.advance())
    assert isinstance(outcomes["broken"].error, IndexError) and not outcomes["broken"].vectors
    assert outcomes["whole"].error is None and len(outcomes["whole"].vectors) == 1
