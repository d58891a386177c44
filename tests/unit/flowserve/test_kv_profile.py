"""The KV cache takes what weights and working memory leave, which is measured once and kept."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from safetensors.numpy import load_file, save_file

from flowserve import EngineConfig, kv_profile
from flowserve.engine import Engine
from flowserve.engine_template import EngineTemplate
from flowserve.errors import InvalidConfigError
from flowserve.kv_memory import least_kv_bytes, plan_kv_memory
from flowserve.largest_step import run_largest_step
from flowserve.memory import host_bytes, resident_bytes
from flowserve.model_parts import load_with_tokenizer

MIB = 2**20
CONFIG = EngineConfig(num_threads=1, cpu_backend="extension", memory_bytes=4096 * MIB)


@pytest.fixture
def folder(models: Callable[..., Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    from flowserve.device.cpu_kernels.library import kernel_library

    kernel_library()
    monkeypatch.setenv("FLOWSERVE_CACHE", str(tmp_path / "cache"))
    return Path(shutil.copytree(models("qwen3"), tmp_path / "model"))


@pytest.fixture
def runs(monkeypatch: pytest.MonkeyPatch) -> list[EngineConfig]:
    """The options with which a largest step was run; here in place of it the process took 1,000 MiB."""
    seen: list[EngineConfig] = []

    def run(loaded: Any, tokenizer: Any, config: EngineConfig) -> int:
        seen.append(config)
        return 1000 * MIB

    monkeypatch.setattr(kv_profile, "run_largest_step", run)
    monkeypatch.setattr(kv_profile, "has_one_thread", lambda: False)
    return seen


def budget(folder: Path, config: EngineConfig = CONFIG) -> int | None:
    loaded, tokenizer = load_with_tokenizer(folder, config)
    found = kv_profile.with_kv_budget(loaded, tokenizer, config)
    assert found.memory_bytes is None
    return found.kv_cache_bytes


def test_it_is_measured_once(folder: Path, runs: list[EngineConfig], tmp_path: Path) -> None:
    expected = 4096 * MIB - 1000 * MIB - int(409.6 * MIB)
    assert [budget(folder) for _ in range(3)] == [expected] * 3
    assert len(runs) == 1 and runs[0].memory_bytes is None
    [kept], [flat] = (list((tmp_path / "cache" / "weights").rglob(f"*{end}")) for end in (".json", ".flat"))
    assert kept.parent == flat.parent and kept.name.startswith(flat.stem)


@pytest.mark.parametrize(
    "change",
    [
        {"max_num_batched_tokens": 64},
        {"max_num_sequences": 4},
        {"kv_cache_dtype": "int8"},
        {"quantization": "int8"},
        {"num_threads": 2},
        {"memory_bytes": 2048 * MIB},
    ],
)
def test_another_shape_or_memory_is_measured_anew(
    folder: Path, runs: list[EngineConfig], change: dict[str, Any]
) -> None:
    budget(folder)
    budget(folder, replace(CONFIG, seed=5, overlap_load=False))
    assert len(runs) == 1, "what takes no memory changes nothing"
    budget(folder, replace(CONFIG, **change))
    assert len(runs) == 2


def test_another_machine_or_checkpoint_is_measured_anew(
    folder: Path, runs: list[EngineConfig], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    budget(folder)
    with monkeypatch.context() as elsewhere:
        elsewhere.setattr(kv_profile.os, "sched_getaffinity", lambda pid: set(range(99)))
        budget(folder)
    assert len(runs) == 2
    tensors = load_file(folder / "model.safetensors")
    tensors["model.norm.weight"] = tensors["model.norm.weight"] * 2
    save_file(tensors, folder / "model.safetensors", metadata={"format": "pt"})
    budget(folder)
    assert len(runs) == 3
    assert len(list((tmp_path / "cache" / "weights").rglob("*.json"))) == 1, "those of the old checkpoint are gone"


@pytest.mark.parametrize("text", ["", "[]", '{"used_bytes": "much"}', '{"used_bytes": -1}', "{}"])
def test_what_is_kept_and_damaged_is_measured_anew(
    folder: Path, runs: list[EngineConfig], tmp_path: Path, text: str
) -> None:
    expected = budget(folder)
    [kept] = (tmp_path / "cache" / "weights").rglob("*.json")
    kept.write_text(text)
    assert budget(folder) == expected
    assert len(runs) == 2 and json.loads(kept.read_text()) == {"used_bytes": 1000 * MIB}


def test_what_cannot_be_kept_leaves_nothing(folder: Path, runs: list[EngineConfig], tmp_path: Path) -> None:
    expected = budget(folder)
    [kept] = (tmp_path / "cache" / "weights").rglob("*.json")
    kept.unlink()
    kept.mkdir()  # no file can take its place
    before = set(kept.parent.iterdir())
    assert budget(folder) == expected and len(runs) == 2
    assert set(kept.parent.iterdir()) == before


def test_too_little_memory_is_named(folder: Path, runs: list[EngineConfig]) -> None:
    assert budget(folder, replace(CONFIG, memory_bytes=1010 * MIB)) == 5 * MIB, "what is left is shared with the spare"
    says = r"memory of 900 MiB is too small: at least 1001 MiB are needed \(1000 MiB for weights"
    with pytest.raises(InvalidConfigError, match=says):
        budget(folder, replace(CONFIG, memory_bytes=900 * MIB))
    for options in ({"kv_cache_bytes": 5}, {"num_kv_blocks": 5}):
        with pytest.raises(InvalidConfigError, match="memory_bytes"):
            EngineConfig(memory_bytes=MIB, **options)


def test_what_is_said_to_be_needed_is_enough(folder: Path, runs: list[EngineConfig]) -> None:
    loaded, _ = load_with_tokenizer(folder, CONFIG)
    for max_model_len in (None, 512):
        config = replace(CONFIG, max_model_len=max_model_len)
        least_bytes = least_kv_bytes(loaded, config)
        assert plan_kv_memory(loaded, replace(config, memory_bytes=None, kv_cache_bytes=least_bytes))
        needed_bytes = 1000 * MIB + 2 * least_bytes  # a tenth of it would be more than what is left
        kv_bytes = budget(folder, replace(config, memory_bytes=needed_bytes))
        assert kv_bytes is not None and kv_bytes >= least_bytes
        with pytest.raises(InvalidConfigError, match="is too small"):
            budget(folder, replace(config, memory_bytes=needed_bytes - 2))


@pytest.fixture
def wide(models: Callable[..., Path], folder: Path, tmp_path: Path) -> Path:
    """Whose sequences could fill more than 512 MiB."""
    return Path(shutil.copytree(models("qwen3", max_position_embeddings=1 << 16), tmp_path / "wide"))


WITHOUT = replace(CONFIG, memory_bytes=None)


@pytest.mark.parametrize(
    ("host_gib", "expected"),
    [
        (64, 8 * 1024 - 1000),  # an eighth, of which 1,000 MiB are taken
        (8, 512),  # which would leave less
        (1.5, 382),  # a tenth is spare
        (0.5, None),  # nothing is left: one block all the same
    ],
)
def test_without_memory_of_its_own_an_engine_has_a_share_of_the_hosts(
    wide: Path, runs: list[EngineConfig], monkeypatch: pytest.MonkeyPatch, host_gib: float, expected: int | None
) -> None:
    monkeypatch.setattr(kv_profile, "host_bytes", lambda: int(host_gib * 1024 * MIB))
    found = {budget(wide, WITHOUT) for _ in range(3)}
    loaded, _ = load_with_tokenizer(wide, WITHOUT)
    assert [None if each is None else each // MIB for each in found] == [
        least_kv_bytes(loaded, WITHOUT) // MIB if expected is None else expected
    ]
    assert len(runs) == 1, "kept"
    long = replace(WITHOUT, max_model_len=1 << 16)
    kv_bytes = budget(wide, long)
    assert kv_bytes is not None and kv_bytes >= least_kv_bytes(loaded, long)


def test_what_needs_no_budget_is_not_measured(folder: Path, wide: Path, runs: list[EngineConfig]) -> None:
    assert budget(folder, WITHOUT) is None, "512 MiB hold all of its sequences"
    assert budget(wide, replace(WITHOUT, kv_cache_bytes=5 * MIB)) == 5 * MIB
    assert budget(wide, replace(WITHOUT, num_kv_blocks=64)) is None
    assert budget(wide, replace(WITHOUT, max_model_len=512)) is None
    assert budget(wide, replace(WITHOUT, cpu_backend="torch")) is None, "it could not be kept"
    assert not runs


def test_a_container_has_less_than_the_machine(tmp_path: Path) -> None:
    limit, without = tmp_path / "memory.max", tmp_path / "other"
    limit.write_text("1048576\n")
    without.write_text("max\n")
    assert host_bytes([str(limit), str(tmp_path / "none")]) == 1 << 20
    assert host_bytes([str(without)]) == host_bytes([])


def test_a_step_of_one_layer_tells_what_a_whole_one_takes(
    models: Callable[..., Path], folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Of a model whose other layers are most of it, and cannot be overlooked."""
    deep = models("qwen3", num_hidden_layers=24, hidden_size=256, intermediate_size=1024)
    loaded, tokenizer = load_with_tokenizer(deep, CONFIG)
    loaded.device.unpark(loaded.weights)
    config = replace(CONFIG, memory_bytes=None)
    short = loaded.device.of_one_layer(loaded)
    assert short is not None and (short.config.num_layers, len(short.plan.layers)) == (1, 1)
    assert loaded.device.weights_bytes(loaded.weights) > 64 * MIB and loaded.config.num_layers == 24
    with monkeypatch.context() as whole:
        whole.setattr(type(loaded.device), "of_one_layer", lambda self, loaded: None)
        expected = run_largest_step(loaded, tokenizer, config)
    assert abs(run_largest_step(loaded, tokenizer, config) - expected) < 16 * MIB


@pytest.mark.parametrize("backend", ["extension", "torch"])
def test_an_engine_within_its_memory(folder: Path, backend: str) -> None:
    """The largest step is really run here; the cache never has more than the model's context for all sequences."""
    config = replace(CONFIG, cpu_backend=backend, max_num_batched_tokens=64, max_num_sequences=4)
    memory_bytes = resident_bytes() + 600 * MIB
    engine = Engine.from_folder(folder, replace(config, memory_bytes=memory_bytes))
    layout = engine._hold.layout
    assert 0 < layout.size_bytes < 600 * MIB
    assert engine.stats().total_blocks == layout.num_blocks
    engine.close()
    template = EngineTemplate(folder, replace(config, memory_bytes=memory_bytes))
    again = template.engine()
    assert again.stats().total_blocks == layout.num_blocks
    again.close()
