"""POST /v1/embeddings over a tiny random encoder."""

from __future__ import annotations

import asyncio
import base64
import json
import shutil
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from prometheus_client.parser import text_string_to_metric_families
from starlette.testclient import TestClient

from flowserve import EmbeddingModel, SamplingParams
from flowserve.errors import InvalidPromptError
from flowserve.server.api_error import ApiError, RequestFields
from flowserve.server.app import ServerConfig
from flowserve.server.embedding_api import EmbeddingApi
from flowserve.server.engine_embedder import EngineEmbedder
from flowserve.server.generation_api import GenerationApi
from flowserve.server.metrics import Metrics
from flowserve.server.prompts import SequenceRequest
from tests.unit.flowserve.test_embedding_model import write_encoder

PATH = "/v1/embeddings"


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("encoders") / "tiny-encoder"
    write_encoder(folder)
    return folder


@pytest.fixture(scope="module")
def model(folder: Path) -> EmbeddingModel:
    return EmbeddingModel(folder, num_threads=1)


@pytest.fixture(scope="module")
def client(folder: Path, model: EmbeddingModel) -> Iterator[TestClient]:
    with TestClient(EmbeddingApi(model, folder).asgi, raise_server_exceptions=False) as running:
        yield running


def test_texts_become_vectors(client: TestClient, model: EmbeddingModel) -> None:
    texts = ["The fox", "Grüße aus München, Übung macht den Meister", "a"]
    body = client.post(PATH, json={"model": "tiny-encoder", "input": texts}).json()
    assert body["object"] == "list" and body["model"] == "tiny-encoder"
    assert [(item["object"], item["index"]) for item in body["data"]] == [("embedding", i) for i in range(3)]
    for item, vector in zip(body["data"], model.embed(texts), strict=True):
        assert item["embedding"] == pytest.approx(vector, abs=1e-6)
    num_tokens = sum(map(len, model.tokenize(texts)))
    assert body["usage"] == {"prompt_tokens": num_tokens, "total_tokens": num_tokens}


def test_inputs_come_in_four_forms(client: TestClient, model: EmbeddingModel) -> None:
    [ids] = model.tokenize("The fox")
    [vector] = model.embed("The fox")
    for given, num in (("The fox", 1), (["The fox"], 1), (ids, 1), ([ids, ids], 2)):
        data = client.post(PATH, json={"input": given}).json()["data"]
        assert len(data) == num and all(item["embedding"] == pytest.approx(vector, abs=1e-6) for item in data)


def test_base64_is_float32(client: TestClient, model: EmbeddingModel) -> None:
    [item] = client.post(PATH, json={"input": "The fox", "encoding_format": "base64"}).json()["data"]
    assert isinstance(
        client.post(PATH, json={"input": "a", "encoding_format": None}).json()["data"][0]["embedding"], list
    )
    found = np.frombuffer(base64.b64decode(item["embedding"]), dtype="<f4")
    assert found == pytest.approx(model.embed("The fox")[0], abs=1e-6)


@pytest.mark.parametrize(
    ("asked", "param"),
    [
        ({}, "input"),
        ({"input": []}, "input"),
        ({"input": [3, "a"]}, "input"),
        ({"input": [[]]}, "input"),
        ({"input": ""}, "input"),
        ({"input": ["a", ""]}, "input"),
        ({"input": [[10**9]]}, "input"),
        ({"input": [[-1]]}, "input"),
        ({"input": ["a"] * 2049}, "input"),
        ({"input": "a", "encoding_format": "hex"}, "encoding_format"),
        ({"input": "a", "dimensions": 12}, "dimensions"),
        ({"input": "a", "truncate_prompt_tokens": 3}, "truncate_prompt_tokens"),
        ({"input": "word " * 200}, "input"),
    ],
)
def test_bad_requests_are_told_what_is_wrong(client: TestClient, asked: dict[str, Any], param: str | None) -> None:
    response = client.post(PATH, json=asked)
    assert response.status_code == 400, response.text
    assert response.json()["error"]["param"] == param


def test_long_texts_are_refused_or_cut(client: TestClient, model: EmbeddingModel) -> None:
    text = "word " * 200
    response = client.post(PATH, json={"input": text})
    assert response.json()["error"]["code"] == "context_length_exceeded"
    [item] = client.post(PATH, json={"input": text, "truncate_prompt_tokens": -1}).json()["data"]
    assert item["embedding"] == pytest.approx(model.embed(text, truncate=True)[0], abs=1e-6)


def test_only_models_trained_for_it_give_fewer_dimensions(folder: Path, tmp_path: Path) -> None:
    nested = tmp_path / "nested"
    shutil.copytree(folder, nested)
    config = json.loads((nested / "config.json").read_text())
    (nested / "config.json").write_text(json.dumps({**config, "is_matryoshka": True}))
    with TestClient(EmbeddingApi(EmbeddingModel(nested, num_threads=1), nested).asgi) as running:
        [whole] = running.post(PATH, json={"input": "The fox", "dimensions": 48}).json()["data"]
        [cut] = running.post(PATH, json={"input": "The fox", "dimensions": 12}).json()["data"]
        start = np.array(whole["embedding"][:12])
        assert cut["embedding"] == pytest.approx(start / np.linalg.norm(start), abs=1e-6)
        assert running.post(PATH, json={"input": "a", "dimensions": 49}).status_code == 400
        assert running.post(PATH, json={"input": "a", "dimensions": 0}).status_code == 400
        (nested / "config.json").write_text(json.dumps({**config, "matryoshka_dimensions": [12, 24]}))
        assert running.post(PATH, json={"input": "a", "dimensions": 24}).status_code == 200
        refused = running.post(PATH, json={"input": "a", "dimensions": 13}).json()["error"]
        assert refused["param"] == "dimensions" and refused["message"] == "dimensions must be one of 12, 24, got 13"


def test_what_is_for_other_models_is_not_found(client: TestClient) -> None:
    for path in ("/v1/completions", "/v1/chat/completions", "/v1/responses"):
        response = client.post(path, json={"prompt": "a"})
        assert response.status_code == 404 and response.json()["error"]["code"] == "model_has_no_such_task"
    assert client.post(PATH, json={"model": "other", "input": "a"}).json()["error"]["code"] == "model_not_found"
    assert client.get("/v1/models").json()["data"][0]["id"] == "tiny-encoder"
    assert client.post("/tokenize", json={"prompt": "The fox"}).json()["count"] > 2
    assert client.get("/health").status_code == 200


def test_metrics_count_tokens_and_requests(folder: Path, model: EmbeddingModel) -> None:
    with TestClient(EmbeddingApi(model, folder).asgi) as running:
        running.post(PATH, json={"input": [[1, 5, 2], [1, 2]]})
        families = text_string_to_metric_families(running.get("/metrics").text)
        samples = {(s.name, s.labels.get("finished_reason")): s.value for family in families for s in family.samples}
    assert samples["vllm:prompt_tokens_total", None] == 5
    assert samples["vllm:request_success_total", "stop"] == 2
    assert samples["vllm:e2e_request_latency_seconds_count", None] == 1


class Held:
    """The encoder's thread, which goes no further than the beginning of its first batch until `go_on`."""

    def __init__(self, model: EmbeddingModel, monkeypatch: pytest.MonkeyPatch) -> None:
        self.batches: list[int] = []
        self.go_on = threading.Event()
        self._begin = model.begin
        monkeypatch.setattr(model, "begin", self._hold)

    def _hold(self, prompts: Any) -> Any:
        self.batches.append(len(prompts))
        assert self.go_on.wait(60)
        return self._begin(prompts)

    async def is_held(self) -> None:
        while not self.batches:
            await asyncio.sleep(0.001)


def test_what_waits_together_is_computed_together(
    folder: Path, model: EmbeddingModel, monkeypatch: pytest.MonkeyPatch
) -> None:
    """And one bad request among them fails alone."""
    texts: list[Any] = ["one", [5, 6, 7], [8, 9, 10]]
    expected = model.embed(texts)
    held = Held(model, monkeypatch)
    api = EmbeddingApi(model, folder, ServerConfig())

    async def run() -> list[Any]:
        api.encoder.start()
        first = asyncio.ensure_future(api.encoder.embed(texts[:1], False))
        await held.is_held()
        others = [asyncio.ensure_future(api.encoder.embed([text], False)) for text in (texts[1], [10**9], texts[2])]
        left = asyncio.ensure_future(api.encoder.embed(["left"], False))
        await asyncio.sleep(0)
        left.cancel()
        await asyncio.sleep(0)
        held.go_on.set()
        found = await asyncio.gather(first, *others, return_exceptions=True)
        await api.encoder.close()
        return found

    one, two, bad, three = asyncio.run(run())
    assert held.batches == [1, 2], "the bad one and the one whose client left are not computed"
    for want, (vectors, _) in zip(expected, (one, two, three), strict=True):
        assert vectors[0] == pytest.approx(want, abs=1e-5)
    assert isinstance(bad, InvalidPromptError) and "1000000000" in str(bad)


def test_a_short_request_does_not_wait_for_a_long_one(
    folder: Path, model: EmbeddingModel, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whose work ends where its client leaves."""
    held = Held(model, monkeypatch)
    api = EmbeddingApi(model, folder, ServerConfig())

    async def run() -> None:
        api.encoder.start()
        long = asyncio.ensure_future(api.encoder.embed([[5, 6, 7] * 20] * 2000, False))
        await held.is_held()
        held.go_on.set()
        for _ in range(3):
            (vector,), _ = await api.encoder.embed(["one"], False)
            assert len(vector) == 48 and not long.done()
        long.cancel()
        await asyncio.wait([long])
        while not api.encoder._queue.is_empty:
            await asyncio.sleep(0.001)
        await api.encoder.close()

    asyncio.run(run())
    num_batches = -(-2000 // (512 // 60))
    assert len(held.batches) < num_batches


def test_an_encoder_that_crashes_says_so(folder: Path, model: EmbeddingModel, monkeypatch: pytest.MonkeyPatch) -> None:
    def crash(prompts: Any) -> Any:
        raise SystemExit("a crash")

    monkeypatch.setattr(model, "begin", crash)
    encoder = EmbeddingApi(model, folder, ServerConfig()).encoder

    async def run() -> None:
        encoder.start()
        for _ in range(2):
            with pytest.raises(ApiError, match="has ended"):
                await asyncio.wait_for(encoder.embed(["one"], False), 20)
        await encoder._thread.join()
        encoder._thread._ending = None  # the thread has ended, and nobody has been told yet
        with pytest.raises(ApiError, match="has ended"):
            await asyncio.wait_for(encoder.embed(["one"], False), 20)

    asyncio.run(run())


def test_a_batch_that_breaks_is_the_answer_of_its_requests(
    client: TestClient, model: EmbeddingModel, monkeypatch: pytest.MonkeyPatch
) -> None:
    begin = model.begin
    monkeypatch.setattr(model, "begin", lambda prompts: begin([[10**6]]))
    broken = client.post(PATH, json={"input": "a"})
    assert broken.status_code == 500, broken.text
    monkeypatch.undo()
    assert client.post(PATH, json={"input": "a"}).status_code == 200


def test_tokens_there_and_back(client: TestClient, model: EmbeddingModel) -> None:
    answer = client.post("/tokenize", json={"prompt": "The fox", "return_token_strs": True}).json()
    assert answer["tokens"] == model.tokenizer.encode("The fox") and answer["count"] == len(answer["token_strs"])
    assert "The fox" in client.post("/detokenize", json={"tokens": answer["tokens"]}).json()["prompt"]
    assert client.post("/detokenize", json={"tokens": [10**9]}).json()["error"]["param"] == "tokens"
    assert client.post("/detokenize", json={"tokens": [1], "model": "other"}).status_code == 404


def test_a_model_that_generates_embeds_too(api: Callable[..., GenerationApi], models: Callable[..., Path]) -> None:
    """As `LLM.embed` does, between the steps of its answers; asleep it does neither."""
    texts = ["The fox", "a", "The quick brown fox " * 3]
    expected = EmbeddingModel(models("qwen3"), num_threads=1)
    running = api(allow_sleep=True, engine={"max_num_batched_tokens": 20})
    with TestClient(running.asgi) as client:
        body = client.post(PATH, json={"input": texts, "model": "tiny"}).json()
        for item, vector in zip(body["data"], expected.embed(texts), strict=True):
            assert item["embedding"] == pytest.approx(vector, abs=1e-5)
        assert body["usage"]["prompt_tokens"] == sum(map(len, expected.tokenize(texts))) > 20
        assert "vllm:e2e_request_latency_seconds_count" in client.get("/metrics").text
        for bad in (
            {"input": ["a", [10**6]]},
            {"input": ["x " * 600]},
            {"input": [""]},
            {"input": "a", "dimensions": 3},
        ):
            refused = client.post(PATH, json=bad)
            assert refused.status_code == 400, refused.text
            assert refused.json()["error"]["param"] == ("dimensions" if "dimensions" in bad else "input")
        assert client.post("/sleep").status_code == 200
        asleep = client.post(PATH, json={"input": "a"})
        assert asleep.status_code == 503 and asleep.json()["error"]["code"] == "asleep"
        client.post("/wake_up")
        again = client.post(PATH, json={"input": texts[0]}).json()["data"][0]["embedding"]
        assert again == pytest.approx(body["data"][0]["embedding"], abs=1e-6)


def test_an_engine_shares_its_steps_among_texts_and_answers(
    api: Callable[..., GenerationApi], models: Callable[..., Path]
) -> None:
    """A short list and a chat do not wait for a long list, which ends where its client leaves."""
    running = api(engine={"max_num_batched_tokens": 32})
    embedder = EngineEmbedder(running.engine, running.engine._engine, Metrics("tiny", 512), 3000)

    async def run() -> None:
        running.engine.start()
        long = asyncio.ensure_future(embedder.embed([[5, 6, 7] * 10] * 2000, False))
        while not running.engine._engine.has_work:
            await asyncio.sleep(0.001)
        params = SamplingParams(max_tokens=3, ignore_eos=True)
        answer = running.engine.submit("answer", [SequenceRequest([7, 8, 9], params)], RequestFields())
        pieces = [piece async for some in answer.pieces() for _, piece in some]
        (vector,), num_tokens = await embedder.embed([[5, 6, 7]], False)
        assert pieces[-1].num_output_tokens == 3 and num_tokens == 3 and not long.done()
        assert vector == pytest.approx(EmbeddingModel(models("qwen3"), num_threads=1).embed([[5, 6, 7]])[0], abs=1e-4)
        long.cancel()
        await asyncio.wait([long])
        while running.engine._engine.has_work:
            await asyncio.sleep(0.001)
        await running.engine.close()

    asyncio.run(run())
