"""Vectors from pods: those of flowserve in this process; what cannot be embedded fails alone."""

from __future__ import annotations

import asyncio
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

import deepserve
from deepserve.errors import ModelError, PromptTooLongError
from flowserve import EmbeddingModel
from tests.tiny_models import make_model
from tests.unit.flowserve.test_embedding_model import likeness, sentence_files

TEXTS = ["one", "The quick brown fox jumps over the lazy dog.", "Grüße aus München"]


@pytest.fixture(scope="module")
def sentences(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = make_model(tmp_path_factory.mktemp("models") / "sentences", "llama")
    sentence_files(folder, ["mean_tokens"], False)
    return folder


@pytest.fixture(scope="module")
def embedder(sentences: Path) -> deepserve.Model:
    return deepserve.Model("sentences", source=sentences)


def test_an_embedding_model(embedder: deepserve.Model, sentences: Path) -> None:
    expected = EmbeddingModel(sentences, num_threads=1).embed(TEXTS)
    vectors = embedder.embed(TEXTS)
    assert [len(vector) for vector in vectors] == [64] * 3
    for vector, want in zip(vectors, expected, strict=True):
        assert vector == pytest.approx(want, abs=1e-5)
    assert embedder.embed("one") == [pytest.approx(expected[0], abs=1e-5)]
    assert embedder.embed([[5, 6, 7]]) == [pytest.approx(EmbeddingModel(sentences).embed([[5, 6, 7]])[0], abs=1e-5)]
    assert embedder.embed([]) == []


def test_a_generating_model_embeds_too(llm: deepserve.Model, folder: Path) -> None:
    (vector,) = asyncio.run(llm.embed.aio(["one"]))
    assert vector == pytest.approx(EmbeddingModel(folder, num_threads=1).embed(["one"])[0], abs=1e-4)
    assert llm.generate("hi", max_tokens=2, temperature=0)


def test_many_at_once(embedder: deepserve.Model) -> None:
    alone = [embedder.embed([f"text {number}"])[0] for number in range(12)]
    with ThreadPoolExecutor(12) as pool:
        together = list(pool.map(lambda number: embedder.embed([f"text {number}"])[0], range(12)))
    for one, other in zip(alone, together, strict=True):
        assert one == pytest.approx(other, abs=1e-5)


def test_bad_texts(embedder: deepserve.Model) -> None:
    with pytest.raises(PromptTooLongError, match="sentences: text 1"):
        embedder.embed(["one", "word " * 2000])
    assert embedder.embed(["word " * 2000], truncate=True)
    with pytest.raises(ModelError, match="text 0 is empty"):
        embedder.embed([""])
    with pytest.raises(ModelError, match="vocabulary"):
        embedder.embed([[100_000]])
    for texts in (3, [3], [None], [[True]]):
        with pytest.raises(TypeError, match=r"llm\.embed"):
            embedder.embed(texts)  # type: ignore[arg-type]
    assert embedder.embed(["one"])


def test_an_embedding_model_generates_nothing(embedder: deepserve.Model) -> None:
    with pytest.raises(ModelError, match="generates no text"):
        embedder.chat("hi")


def test_quantized_weights(llm: deepserve.Model, embedder: deepserve.Model) -> None:
    """Of a model that embeds, and of one that generates, whose engine rounds inputs in its own way."""
    for exact in (embedder, llm):
        rounded = deepserve.Model(f"{exact.name}-int8", source=exact.source, quantization="int8")
        expected = EmbeddingModel(exact.source, num_threads=1, quantization="int8").embed(TEXTS)
        vectors = rounded.embed(TEXTS)
        assert likeness(vectors, expected) > (0.9999 if exact is embedder else 0.99)


def test_an_answer_does_not_wait_for_a_long_list(llm: deepserve.Model) -> None:
    """Which ends where its caller leaves it."""

    async def run() -> None:
        await llm.embed.aio(["one"])
        long = asyncio.ensure_future(llm.embed.aio([[5, 6, 7] * 60] * 20_000))
        for _ in range(5):
            await llm.generate.aio("hi", max_tokens=3, temperature=0)
            (vector,) = await llm.embed.aio(["one"])
            assert vector
        assert not long.done()
        long.cancel()
        with pytest.raises(asyncio.CancelledError):
            await long

    asyncio.run(run())
    assert llm.embed(["one"])
