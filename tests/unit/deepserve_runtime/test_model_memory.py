"""A model that does not fit into memory is refused before its weights are read."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from deepserve.errors import ModelLoadError
from deepserve.protocol.specs import CodeRef, FunctionSpec, ModelSpec, Resources
from deepserve_runtime.executors.loaded_engine import engine_config
from deepserve_runtime.executors.model_memory import check_fits_into_memory, host_memory_bytes


def spec_of(folder: Path, quantization: str | None = None, memory_mib: int = 0) -> FunctionSpec:
    model = ModelSpec("big", str(folder), quantization=quantization)
    resources = Resources(memory_mib=memory_mib)
    return FunctionSpec("models", "big", "model", CodeRef("builtin", "", ""), resources=resources, model=model)


def test_a_model_larger_than_the_host(tmp_path: Path) -> None:
    weights = tmp_path / "model-1.safetensors"
    weights.touch()
    os.truncate(weights, host_memory_bytes())  # a hole: it takes no room on the disk
    check_fits_into_memory(tmp_path, spec_of(tmp_path))
    (tmp_path / "model-2.safetensors").write_bytes(b"x")
    with pytest.raises(ModelLoadError, match=r"model 'big' does not fit.*GiB at least, this host has"):
        check_fits_into_memory(tmp_path, spec_of(tmp_path))
    check_fits_into_memory(tmp_path, spec_of(tmp_path, "int8"))


def test_a_model_larger_than_its_pods_may_be(tmp_path: Path) -> None:
    (tmp_path / "model.safetensors").write_bytes(bytes(3 << 20))
    check_fits_into_memory(tmp_path, spec_of(tmp_path, memory_mib=3))
    with pytest.raises(ModelLoadError, match="a pod may have"):
        check_fits_into_memory(tmp_path, spec_of(tmp_path, memory_mib=2))


def test_a_container_has_less_than_the_machine(tmp_path: Path) -> None:
    limit, without = tmp_path / "memory.max", tmp_path / "other"
    limit.write_text("1048576\n")
    without.write_text("max\n")
    assert host_memory_bytes([str(limit), str(tmp_path / "none")]) == 1 << 20
    assert host_memory_bytes([str(without)]) == host_memory_bytes([])


def test_a_pods_limit_is_the_engines_memory(tmp_path: Path) -> None:
    assert engine_config(spec_of(tmp_path, memory_mib=700)).memory_bytes == 700 << 20
    assert engine_config(spec_of(tmp_path)).memory_bytes is None
