"""Options that a folder or the memory refuses are told in the words of `deepserve.Model`, before weights are read."""

from __future__ import annotations

import json
import pickle
import shutil
from pathlib import Path
from typing import Any

import pytest

from deepserve.errors import InvalidModelOption, InvalidOption, ModelLoadError
from deepserve.protocol.specs import CodeRef, FunctionSpec, ModelSpec, Resources
from deepserve_runtime.executors import model_options
from deepserve_runtime.executors.loaded_engine import engine_config
from deepserve_runtime.executors.model_options import check_definition, check_options
from deepserve_runtime.memory_limit import load_error
from tests.tiny_models import make_model


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_model(tmp_path_factory.mktemp("models") / "tiny", "qwen3", max_position_embeddings=4096)


def spec_of(source: object, memory_mib: int = 0, accelerators: tuple[str, ...] = (), **options: Any) -> FunctionSpec:
    model = ModelSpec("big", str(source), **options)
    resources = Resources(memory_mib=memory_mib, accelerators=accelerators)
    return FunctionSpec("models", "big", "model", CodeRef("builtin", "", ""), resources=resources, model=model)


def test_a_model_larger_than_the_host(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    check_options(folder, spec_of(folder))
    monkeypatch.setattr(model_options, "host_bytes", lambda: 400_000)
    with pytest.raises(ModelLoadError, match=r"^model 'big' does not fit.*GiB at least, this host has"):
        check_options(folder, spec_of(folder))
    check_options(folder, spec_of(folder, quantization="int8"))


@pytest.mark.parametrize(
    ("spec", "says"),
    [
        ({"max_model_len": 4097}, "max_model_len=4097 is more than the model's 4096 positions"),
        ({"tensor_parallel": 3}, "tensor_parallel=3 is not supported; supported: 1"),
        ({"quantization": "int2"}, "quantization='int2' is not supported; supported: None, int8, int4"),
        ({"memory_mib": 1, "max_model_len": 4096}, "memory=1 MiB is too small: at least 4 MiB are needed"),
    ],
)
def test_an_option_is_named_with_its_limit(
    folder: Path, monkeypatch: pytest.MonkeyPatch, spec: dict[str, Any], says: str
) -> None:
    monkeypatch.setattr(model_options, "resident_bytes", lambda: 0)
    for check in (lambda spec: check_options(folder, spec), check_definition):
        with pytest.raises(InvalidModelOption) as caught:
            check(spec_of(folder, **spec))
        assert str(caught.value).startswith(f"Model 'big': {says}")
        assert isinstance(caught.value, InvalidOption) and isinstance(caught.value, ModelLoadError)
        again = pickle.loads(pickle.dumps(caught.value))
        assert (type(again), str(again)) == (InvalidModelOption, str(caught.value))


def test_a_process_counts_where_it_is_to_hold_the_model(folder: Path) -> None:
    check_options(folder, spec_of(folder, memory_mib=300))
    with pytest.raises(
        InvalidModelOption, match=r"memory=300 MiB is too small: at least 401 MiB .* process of 400 MiB"
    ):
        check_options(folder, spec_of(folder, memory_mib=300), 400 << 20)


def test_before_a_deploy_a_process_without_torch_is_the_least(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(model_options, "resident_bytes", lambda: 40 << 20)
    assert check_definition(spec_of(folder, memory_mib=42))
    with pytest.raises(InvalidModelOption, match="memory=10 MiB is too small: at least 41 MiB .* process of 40 MiB"):
        check_definition(spec_of(folder, memory_mib=10))


def test_before_a_deploy_devices_are_not_judged_and_nothing_is_fetched(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert check_definition(spec_of(folder, accelerators=("npu:910c",)))
    monkeypatch.setenv("HF_HUB_CACHE", str(tmp_path))
    assert not check_definition(spec_of("nobody/has-this-model", max_model_len=1 << 30))
    with pytest.raises(ModelLoadError, match="is no folder"):
        check_definition(spec_of(tmp_path / "none"))


def test_a_model_that_was_fetched_in_part_is_not_there_yet(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    fetched = tmp_path / "snapshot"
    shutil.copytree(folder, fetched)
    monkeypatch.setattr(model_options, "known_folder", lambda source: fetched)
    assert check_definition(spec_of("somebody/tiny"))
    (fetched / "model.safetensors").unlink()
    assert not check_definition(spec_of("somebody/tiny"))


def test_an_unknown_architecture_is_the_folders_fault(folder: Path, tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text(json.dumps({"architectures": ["MambaForCausalLM"]}))
    with pytest.raises(ModelLoadError, match="cannot be loaded.*'MambaForCausalLM'") as caught:
        check_definition(spec_of(tmp_path))
    assert not isinstance(caught.value, InvalidOption)


def test_a_pod_over_its_memory_while_it_loads(folder: Path) -> None:
    error = load_error(spec_of(folder, memory_mib=64), "the pod uses 170 MiB of memory, its limit is 64 MiB")
    assert isinstance(error, InvalidModelOption) and "memory=64 MiB is too small" in str(error)
    function = FunctionSpec("app", "f", "function", CodeRef("builtin", "", ""), resources=Resources(memory_mib=64))
    assert isinstance(load_error(function, "the pod uses 170 MiB"), MemoryError)


def test_a_pods_limit_is_the_engines_memory(tmp_path: Path) -> None:
    assert engine_config(spec_of(tmp_path, memory_mib=700)).memory_bytes == 700 << 20
    assert engine_config(spec_of(tmp_path)).memory_bytes is None
