"""A model's options are checked from config.json and headers alone, by the engine's own rules, without torch."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from flowserve import EngineConfig
from flowserve.engine import Engine
from flowserve.errors import CheckpointError, FlowServeError, InvalidConfigError, UnsupportedArchitectureError
from flowserve.model_check import LeastMemory, check_model
from flowserve.models.checkpoint import has_all_weights
from tests.tiny_models import make_model

MIB = 2**20
WITHOUT_TORCH = """
import sys
from pathlib import Path
from flowserve.config import EngineConfig
from flowserve.model_check import check_model
print(check_model(Path(sys.argv[1]), EngineConfig()).weights_bytes, "torch" in sys.modules, "numpy" in sys.modules)
"""


@pytest.fixture
def own(models: Callable[..., Path], tmp_path: Path) -> Path:
    return Path(shutil.copytree(models("qwen3"), tmp_path / "own"))


def change_config(folder: Path, **fields: object) -> None:
    path = folder / "config.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), **fields}))


def test_it_needs_no_torch(models: Callable[..., Path]) -> None:
    command = [sys.executable, "-c", WITHOUT_TORCH, str(models("qwen3"))]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60)
    assert done.stdout.split()[1:] == ["False", "False"] and int(done.stdout.split()[0]) > 0, done.stderr


@pytest.mark.parametrize("architecture", ["llama", "mistral", "phi3", "qwen2", "qwen3"])
@pytest.mark.parametrize(
    "config",
    [
        EngineConfig(num_threads=1),
        EngineConfig(num_threads=1, dtype="bfloat16"),
        EngineConfig(num_threads=1, quantization="int8"),
        EngineConfig(num_threads=1, quantization="int4", kv_cache_dtype="float32"),
        EngineConfig(num_threads=1, dtype="bfloat16", cpu_backend="torch"),
        EngineConfig(num_threads=1, kv_cache_dtype="int8"),
    ],
)
def test_bounds_are_below_what_an_engine_takes(
    models: Callable[..., Path], architecture: str, config: EngineConfig
) -> None:
    least = check_model(models(architecture), config)
    engine = Engine.from_folder(models(architecture), config)
    setup = engine.setup
    assert least.num_tokens == 32 == setup.block_size
    assert 0.4 * setup.kv_bytes < least.kv_bytes * setup.num_blocks <= setup.kv_bytes
    if config.cpu_backend != "torch" and setup.weights_bytes:  # a page for each tensor, beside scales
        assert 0.5 * setup.weights_bytes < least.weights_bytes <= setup.weights_bytes
    engine.close()


def refused(folder: Path, config: EngineConfig) -> tuple[str, str]:
    """By the check, and by the engine."""
    texts = []
    for attempt in (lambda: check_model(folder, config), lambda: Engine.from_folder(folder, config)):
        with pytest.raises(FlowServeError) as caught:
            attempt()
        texts.append(f"{type(caught.value).__name__}: {caught.value}")
    return texts[0], texts[1]


def test_a_context_longer_than_the_models(own: Path) -> None:
    told, by_engine = refused(own, EngineConfig(max_model_len=513))
    assert told == by_engine == "InvalidConfigError: max_model_len 513 is more than the model's 512 positions"
    assert check_model(own, EngineConfig(max_model_len=512)).num_tokens == 512


@pytest.mark.parametrize(
    "fields",
    [
        {"architectures": ["MambaForCausalLM"]},
        {"architectures": ["BertModel"], "hidden_act": "tanh"},
        {"num_key_value_heads": 3},
        {"hidden_size": 32},
        {"num_hidden_layers": 3},
        {"quantization_config": {"bits": 4}},
    ],
)
def test_a_folder_that_no_engine_takes(own: Path, fields: dict[str, object]) -> None:
    change_config(own, **fields)
    with pytest.raises(FlowServeError):
        check_model(own, EngineConfig())
    if fields["architectures" if "architectures" in fields else next(iter(fields))] != ["BertModel"]:
        told, by_engine = refused(own, EngineConfig())
        assert told == by_engine


def test_truncated_weights(own: Path) -> None:
    weights = own / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-1])
    with pytest.raises(CheckpointError, match="truncated"):
        check_model(own, EngineConfig())
    assert check_model(own, EngineConfig(), has_weights=False) == LeastMemory()
    change_config(own, architectures=["MambaForCausalLM"])
    with pytest.raises(UnsupportedArchitectureError):
        check_model(own, EngineConfig(), has_weights=False)


def test_memory_that_holds_no_weights_and_no_sequence(own: Path) -> None:
    least = check_model(own, EngineConfig())
    assert least == check_model(own, EngineConfig(memory_bytes=sum(least[:2])))
    with pytest.raises(InvalidConfigError, match=r"memory of 0 MiB is too small: at least 1 MiB .*of 32 tokens\)"):
        check_model(own, EngineConfig(memory_bytes=sum(least[:2]) - 1))
    with pytest.raises(InvalidConfigError, match=r"memory of 64 MiB .* at least 201 MiB .*a process of 200 MiB"):
        check_model(own, EngineConfig(memory_bytes=64 * MIB), process_bytes=200 * MIB)
    whole = check_model(own, EngineConfig(max_model_len=512))
    assert whole.kv_bytes == 16 * least.kv_bytes
    with pytest.raises(InvalidConfigError, match="one sequence of 512 tokens"):
        check_model(own, EngineConfig(max_model_len=512, memory_bytes=sum(whole[:2]) - 1))


def test_files_that_are_still_to_come(own: Path) -> None:
    assert has_all_weights(own)
    (own / "model.safetensors").rename(own / "one.safetensors")
    assert not has_all_weights(own)
    index = own / "model.safetensors.index.json"
    index.write_text(json.dumps({"weight_map": {"a": "one.safetensors", "b": "two.safetensors"}}))
    assert not has_all_weights(own)
    index.write_text(json.dumps({"weight_map": {"a": "one.safetensors"}}))
    assert has_all_weights(own)


def test_a_model_that_embeds(tmp_path: Path) -> None:
    folder = make_model(tmp_path / "states", "llama")
    change_config(folder, architectures=["LlamaModel"])
    assert check_model(folder, EngineConfig()).kv_bytes == 0
    with pytest.raises(InvalidConfigError, match="max_model_len 513"):
        check_model(folder, EngineConfig(max_model_len=513))
