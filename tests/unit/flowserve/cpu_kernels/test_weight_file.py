"""The flat file of packed weights: written once, mapped later, made anew when the checkpoint changes."""

from __future__ import annotations

import logging
import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

from flowserve import EngineConfig, SamplingParams
from flowserve.engine import Engine
from flowserve.errors import CheckpointError
from flowserve.models.loader import load_model

GREEDY = SamplingParams(temperature=0, max_tokens=8, ignore_eos=True)


@pytest.fixture
def model(models: Callable[..., Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A model folder of its own, and an empty cache for weights (kernels come from the usual one)."""
    from flowserve.device.cpu_kernels.library import kernel_library

    kernel_library()
    monkeypatch.setenv("FLOWSERVE_CACHE", str(tmp_path / "cache"))
    return Path(shutil.copytree(models("qwen3"), tmp_path / "model"))


def _files(tmp_path: Path) -> list[Path]:
    """Files of weights and what is left of them."""
    return sorted(path for path in (tmp_path / "cache" / "weights").rglob("*") if path.is_file() and path.suffix)


def _tokens(folder: Path, **options: object) -> list[int]:
    engine = Engine.from_folder(folder, EngineConfig(num_threads=1, cpu_backend="extension", **options))  # type: ignore[arg-type]
    engine.add("a", [5, 6, 7, 8], GREEDY)
    tokens: list[int] = []
    while engine.has_work:
        tokens += [token for output in engine.step() for token in output.token_ids]
    return tokens


def test_the_second_load_maps_what_the_first_wrote(model: Path, tmp_path: Path) -> None:
    first = _tokens(model)
    (file,) = _files(tmp_path)
    written = file.stat()
    assert _tokens(model) == first
    assert (file.stat().st_ino, file.stat().st_mtime_ns) == (written.st_ino, written.st_mtime_ns)
    assert file.stat().st_mode & 0o077 == 0, "weights may be private"


def test_each_quantisation_has_its_file_and_a_changed_checkpoint_replaces_them(model: Path, tmp_path: Path) -> None:
    before = _tokens(model)
    _tokens(model, quantization="int8")
    assert len(_files(tmp_path)) == 2
    tensors = load_file(model / "model.safetensors")
    tensors["model.embed_tokens.weight"] = tensors["model.embed_tokens.weight"][::-1].copy()
    save_file(tensors, model / "model.safetensors", metadata={"format": "pt"})
    assert _tokens(model) != before
    assert len(_files(tmp_path)) == 1, "those of the old checkpoint are gone"


@pytest.mark.parametrize("damage", ["shorter", "magic", "index", "empty", "lost"])
def test_a_damaged_file_is_made_anew(model: Path, tmp_path: Path, damage: str) -> None:
    first = _tokens(model)
    (file,) = _files(tmp_path)
    whole = file.read_bytes()
    broken = {
        "shorter": whole[:-4096],
        "magic": b"somebody" + whole[8:],
        "index": whole[:16] + b"{" * 50 + whole[66:],
        "empty": b"",
        "lost": whole[: len(whole) // 2] + bytes(len(whole) - len(whole) // 2),
    }[damage]
    file.write_bytes(broken)
    assert _tokens(model) == first
    assert _files(tmp_path)[0].read_bytes() == whole


@pytest.mark.parametrize("direct_load", [False, True])
def test_a_file_that_is_not_in_memory(model: Path, direct_load: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    first = _tokens(model)
    monkeypatch.setattr("flowserve.loading.host_copy._SMALL_BYTES", 1)
    for module in ("loading.host_copy", "device.cpu_kernels.weight_file"):
        monkeypatch.setattr(f"flowserve.{module}.resident_share", lambda path: 0.1)
    source = load_model(model, EngineConfig(cpu_backend="extension")).source
    assert source == ("file", "10% of the converted weights were in memory")
    assert _tokens(model, direct_load=direct_load) == first


def test_a_cache_that_cannot_be_written(
    model: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    expected = _tokens(model)
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("FLOWSERVE_CACHE", str(tmp_path / "file"))
    with caplog.at_level(logging.WARNING, "flowserve"):
        assert _tokens(model) == expected
    assert "packing into memory" in caplog.text


def test_what_a_killed_process_left_goes(model: Path, tmp_path: Path) -> None:
    _tokens(model)
    (file,) = _files(tmp_path)
    abandoned = file.with_suffix(".partial-999999999")
    abandoned.write_text("")
    file.unlink()
    _tokens(model)
    assert _files(tmp_path) == [file]


def test_weights_of_models_that_are_gone_go(model: Path, tmp_path: Path) -> None:
    other = Path(shutil.copytree(model, tmp_path / "other"))
    _tokens(other)
    shutil.rmtree(other)
    _tokens(model)
    assert [path.parent.name.split("-")[0] for path in _files(tmp_path)] == ["model"]


@pytest.mark.parametrize(
    ("stored", "row"),
    [
        ("model.layers.1.mlp.up_proj.weight", 33),
        ("model.layers.0.self_attn.k_proj.weight", 3),
        ("model.norm.weight", 5),
        ("model.embed_tokens.weight", 100),
    ],
)
def test_weights_that_are_not_finite_are_named(model: Path, tmp_path: Path, stored: str, row: int) -> None:
    tensors = load_file(model / "model.safetensors")
    tensors[stored] = tensors[stored].copy()
    tensors[stored][row] = np.nan
    save_file(tensors, model / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(CheckpointError, match=f"{stored}.*NaN or infinity in row {row}"):
        load_model(model, EngineConfig(cpu_backend="extension"))
    assert _files(tmp_path) == [], "nothing half written is left"
