"""A model folder that changes under an engine is noticed, and no engine mixes two states of it."""

from __future__ import annotations

import logging
import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from safetensors.numpy import load_file, save_file

from flowserve import EngineConfig, SamplingParams
from flowserve.engine import Engine
from flowserve.engine_template import EngineTemplate
from flowserve.errors import CheckpointChangedError, CheckpointError
from flowserve.models import folder_plan, loader
from flowserve.models.folder_state import FolderState

CONFIG = EngineConfig(num_threads=1)


@pytest.fixture
def folder(models: Callable[..., Path], tmp_path: Path) -> Path:
    return Path(shutil.copytree(models("qwen3"), tmp_path / "model"))


def change_weights(folder: Path) -> None:
    """As a user would: a new file takes the place of the old one, with its size and its time."""
    path = folder / "model.safetensors"
    before = path.stat()
    tensors = load_file(path)
    tensors["model.embed_tokens.weight"] = tensors["model.embed_tokens.weight"][::-1].copy()
    save_file(tensors, folder / "new", metadata={"format": "pt"})
    os.utime(folder / "new", ns=(before.st_atime_ns, before.st_mtime_ns))
    (folder / "new").rename(path)
    assert (path.stat().st_size, path.stat().st_mtime_ns) == (before.st_size, before.st_mtime_ns)


def tokens_of(engine: Engine) -> list[int]:
    engine.add("a", [5, 6, 7, 8], SamplingParams(temperature=0, max_tokens=8, ignore_eos=True))
    tokens: list[int] = []
    while engine.has_work:
        tokens += [token for output in engine.step() for token in output.token_ids]
    return tokens


def test_what_changes_and_what_does_not(folder: Path) -> None:
    state = loader.load_model(folder, CONFIG).files
    assert state.changed() == state.gone() == ""
    (folder / "config.json").write_bytes((folder / "config.json").read_bytes())
    (folder / "README.md").write_text("written later")
    assert state.changed() == "", "the same content, and a file that no engine reads"
    change_weights(folder)
    assert state.changed() == f"{folder}: model.safetensors changed on disk"
    (folder / "generation_config.json").write_text("{}")
    assert "generation_config.json, model.safetensors changed" in state.changed()
    (folder / "tokenizer.json").unlink()
    assert state.gone() == f"{folder}: tokenizer.json vanished from disk"
    assert "tokenizer.json" not in state.changed()


def test_a_changed_checkpoint_is_converted_again_even_with_the_same_size_and_time(folder: Path) -> None:
    old = Engine.from_folder(folder, CONFIG)
    before = tokens_of(old)
    change_weights(folder)
    new = tokens_of(Engine.from_folder(folder, CONFIG))
    assert new != before
    assert tokens_of(old) == before, "who has the old weights mapped keeps them"


def test_a_template_tells_that_it_holds_another_model(folder: Path) -> None:
    template = EngineTemplate(folder, CONFIG)
    before = tokens_of(template.engine())
    assert template.changed() == template.gone() == ""
    change_weights(folder)
    assert "model.safetensors changed" in template.changed()
    assert tokens_of(template.engine()) == before
    (folder / "model.safetensors").unlink()
    assert template.changed() == "" and "model.safetensors vanished" in template.gone()


@pytest.mark.parametrize("backend", ["extension", "torch"])
def test_weights_that_were_dropped_come_back_from_the_same_files_only(folder: Path, backend: str) -> None:
    engine = Engine.from_folder(folder, EngineConfig(num_threads=1, cpu_backend=backend))
    tokens_of(engine)
    engine.sleep(2)
    change_weights(folder)
    with pytest.raises(CheckpointChangedError, match="model.safetensors changed on disk"):
        engine.wake()
    assert engine.is_sleeping


def test_weights_that_were_parked_stay_what_they_are(folder: Path, caplog: pytest.LogCaptureFixture) -> None:
    engine = Engine.from_folder(folder, EngineConfig(num_threads=1, cpu_backend="extension"))
    before = tokens_of(engine)
    engine.sleep(1)
    change_weights(folder)
    with caplog.at_level(logging.WARNING, "flowserve"):
        engine.wake()
    assert "model.safetensors changed on disk: the engine goes on with the weights that it has" in caplog.text
    assert tokens_of(engine) == before


def test_a_folder_that_changes_while_it_is_read_is_read_again(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    expected = tokens_of(Engine.from_folder(shutil.copytree(folder, folder.parent / "copy"), CONFIG))
    reads = 0
    read_config = folder_plan.read_model_config

    def change_once(path: Path) -> Any:
        nonlocal reads
        reads += 1
        found = read_config(path)
        if reads == 1:  # after config.json was read, before the weights are
            (path / "config.json").write_text((path / "config.json").read_text() + "\n")
        return found

    monkeypatch.setattr(folder_plan, "read_model_config", change_once)
    assert tokens_of(Engine.from_folder(folder, CONFIG)) == expected
    assert reads == 2


def test_a_folder_that_keeps_changing_is_an_error(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    build = folder_plan.Checkpoint

    def changing(path: Path) -> Any:
        found = build(path)
        change_weights(path)
        return found

    monkeypatch.setattr(folder_plan, "Checkpoint", changing)
    with pytest.raises(CheckpointChangedError, match="model.safetensors changed.*while"):
        loader.load_model(folder, EngineConfig(num_threads=1, cpu_backend="torch"))
    with pytest.raises(CheckpointChangedError, match="model.safetensors changed while its weights were converted"):
        loader.load_model(folder, EngineConfig(num_threads=1, cpu_backend="extension"))


def test_a_weights_file_that_vanished_is_named(folder: Path) -> None:
    (folder / "model.safetensors").unlink()
    with pytest.raises(CheckpointError, match="no model.safetensors"):
        Engine.from_folder(folder, CONFIG)
    assert "model.safetensors" not in FolderState.of_metadata(folder).gone()
