"""What is known of a model's size before anybody has loaded it."""

from __future__ import annotations

from pathlib import Path

from deepserve.protocol.specs import FunctionSpec, ModelSpec
from deepserve_controller.service.checkpoint_size import checkpoint_bytes
from tests.unit.deepserve_controller.harness import spec


def model(source: str) -> FunctionSpec:
    return spec("m", kind="model", model=ModelSpec("m", source))


def test_weights_files_of_a_folder_count(tmp_path: Path) -> None:
    for name, size in (("model-1.safetensors", 1000), ("model-2.safetensors", 24), ("tokenizer.json", 500)):
        (tmp_path / name).write_bytes(bytes(size))
    (tmp_path / "original").mkdir()
    (tmp_path / "original" / "model.safetensors").write_bytes(bytes(1000))
    assert checkpoint_bytes(model(str(tmp_path))) == 1024


def test_what_cannot_be_known_is_nothing(tmp_path: Path) -> None:
    (tmp_path / "model.safetensors").write_bytes(bytes(8))
    sources = (str(tmp_path / "none"), "organisation/name", str(tmp_path / "model.safetensors"))
    assert [checkpoint_bytes(model(source)) for source in sources] == [0, 0, 0]
    assert checkpoint_bytes(spec("f")) == 0
    assert checkpoint_bytes(spec("t", kind="tokenizer", model=ModelSpec("m", str(tmp_path)))) == 0
