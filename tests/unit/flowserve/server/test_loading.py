"""What a server process does before it serves: the address, what the folder is for, the collector."""

from __future__ import annotations

import errno
import gc
import json
import os
import shutil
import socket
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import uvicorn
from starlette.testclient import TestClient

from flowserve import EmbeddingModel, EngineConfig
from flowserve.errors import AddressError, EngineClosedError, InvalidConfigError, ModelNotFoundError
from flowserve.server import process
from flowserve.server.app import ServerConfig
from flowserve.server.embedding_api import EmbeddingApi
from flowserve.server.generation_api import GenerationApi
from tests.unit.flowserve.test_embedding_model import sentence_files, write_encoder

Models = Callable[..., Path]
ONE_THREAD = EngineConfig(num_threads=1)


@pytest.fixture
def taken() -> Iterator[int]:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        yield listener.getsockname()[1]


def test_a_taken_port_is_said_with_its_address(taken: int) -> None:
    with pytest.raises(AddressError, match=f"cannot listen at 127.0.0.1:{taken}: Address already in use"):
        process.bind("127.0.0.1", taken)


@pytest.mark.parametrize("host", ["no.such.host.invalid", "a" * 70 + ".b", "a..b", "203.0.113.1"])
def test_a_host_that_is_not_here(host: str) -> None:
    with pytest.raises(AddressError, match=f"cannot listen at {host}:0: "):
        process.bind(host, 0)


@pytest.fixture
def collector() -> Iterator[None]:
    yield
    gc.unfreeze()


@pytest.mark.usefixtures("collector")
def test_a_port_that_another_server_listens_at_by_the_time_the_model_is_loaded(
    models: Models, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Both may bind it, and Linux refuses the slower one when it listens: same error, and its engine is closed."""
    load, loaded = process.load_api, []

    async def too_late(server: uvicorn.Server, sockets: Any) -> None:
        await server.lifespan.startup()
        raise OSError(errno.EADDRINUSE, os.strerror(errno.EADDRINUSE))

    monkeypatch.setattr(process, "load_api", lambda *arguments: loaded.append(load(*arguments)) or loaded[0])
    monkeypatch.setattr(uvicorn.Server, "startup", too_late)
    with pytest.raises(AddressError, match=r"cannot listen at 127.0.0.1:\d+: Address already in use"):
        process.serve(str(models()), ONE_THREAD, ServerConfig(), process.Listening(port=0))
    assert not loaded[0].engine.is_alive
    with pytest.raises(EngineClosedError):
        loaded[0].engine._engine.step()


@pytest.mark.usefixtures("collector")
def test_a_port_that_another_socket_listens_at_by_then(models: Models, monkeypatch: pytest.MonkeyPatch) -> None:
    """A real one, and uvloop, which does not say that the system refused."""
    load = process.load_api
    with process.bind("127.0.0.1", 0) as other:

        def load_slowly(*arguments: Any) -> Any:
            other.listen()
            return load(*arguments)

        monkeypatch.setattr(process, "load_api", load_slowly)
        port = other.getsockname()[1]
        with pytest.raises(AddressError, match=rf"cannot listen at 127.0.0.1:{port}: Address already in use"):
            process.serve(str(models()), ONE_THREAD, ServerConfig(), process.Listening(port=port))


@pytest.mark.usefixtures("collector")
def test_the_collector_leaves_what_is_loaded_alone(models: Models, monkeypatch: pytest.MonkeyPatch) -> None:
    frozen = []

    async def only_look(server: Any, sockets: Any) -> None:
        frozen.append(gc.get_freeze_count())

    monkeypatch.setattr(process._Server, "serve", only_look)
    assert gc.get_freeze_count() == 0
    process.serve(str(models()), ONE_THREAD, ServerConfig(), process.Listening(port=0))
    assert frozen[0] > 10_000, "torch's modules alone are more"


@pytest.fixture
def decoder(models: Models, tmp_path: Path) -> Path:
    """As the folders of Qwen3-Embedding are: a decoder, with the files of sentence-transformers."""
    folder = Path(shutil.copytree(models("qwen3"), tmp_path / "embedding"))
    sentence_files(folder, ["lasttoken"], True, max_seq_length=64)
    return folder


def test_a_decoder_that_embeds_is_served_as_such(decoder: Path) -> None:
    api = process.load_api(str(decoder), ONE_THREAD, ServerConfig())
    assert isinstance(api, EmbeddingApi)
    with TestClient(api.asgi) as client:
        answer = client.post("/v1/embeddings", json={"input": ["The fox", "a"], "model": "embedding"}).json()
        assert client.post("/v1/completions", json={"prompt": "a"}).status_code == 404
    expected = EmbeddingModel(decoder, num_threads=1).embed(["The fox", "a"])
    for item, vector in zip(answer["data"], expected, strict=True):
        assert item["embedding"] == pytest.approx(vector, abs=1e-6)


def test_what_a_folder_is_for(decoder: Path, tmp_path: Path) -> None:
    def kind(folder: Path) -> type:
        return type(process.load_api(str(folder), ONE_THREAD, ServerConfig()))

    write_encoder(tmp_path / "encoder")
    assert kind(tmp_path / "encoder") is EmbeddingApi
    (decoder / "modules.json").unlink()
    assert kind(decoder) is GenerationApi
    path = decoder / "config.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), "architectures": ["Qwen3Model"]}))
    assert kind(decoder) is EmbeddingApi
    path.unlink()
    with pytest.raises(ModelNotFoundError, match=r"config\.json"):
        kind(decoder)


def test_a_model_that_embeds_does_not_sleep(decoder: Path) -> None:
    with pytest.raises(InvalidConfigError, match="allow_sleep is for models that generate"):
        process.load_api(str(decoder), ONE_THREAD, ServerConfig(allow_sleep=True))


@pytest.mark.parametrize("grace_s", [-1.0, float("inf"), float("nan"), 1e6])
def test_a_grace_that_never_ends(grace_s: float) -> None:
    with pytest.raises(InvalidConfigError, match="grace_s must be 0 to 86400 seconds, got"):
        process.Listening(grace_s=grace_s)


@pytest.mark.parametrize(
    "options, words",
    [
        ({"names": ("a", "")}, "names must not hold an empty one"),
        ({"api_key": ""}, "api_key must be ASCII"),
        ({"api_key": "a b"}, "api_key must be ASCII"),
        ({"api_key": "clé"}, "api_key must be ASCII"),
        ({"api_key": "key\n"}, "api_key must be ASCII"),
        ({"call_format": "x"}, "no tool call format 'x'; there are hermes"),
    ],
)
def test_options_of_the_server_that_cannot_work(options: dict[str, Any], words: str) -> None:
    with pytest.raises(InvalidConfigError, match=words) as refused:
        ServerConfig(**options)
    assert "clé" not in str(refused.value), "a key is not for logs"


@pytest.mark.parametrize(
    "options", [{"kv_cache_dtype": "int8"}, {"step_log": "steps.jsonl"}, {"speculative_tokens": 2}]
)
def test_options_of_an_engine_mean_nothing_to_a_model_that_embeds(decoder: Path, options: dict[str, Any]) -> None:
    [name] = options
    with pytest.raises(InvalidConfigError, match=f"{name} is for models that generate, and .*embedding' embeds"):
        process.load_api(str(decoder), EngineConfig(num_threads=1, **options), ServerConfig())
