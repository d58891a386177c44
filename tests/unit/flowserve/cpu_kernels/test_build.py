"""Compiling once, and what happens where nothing can be compiled."""

from __future__ import annotations

import logging
import os
import platform
import stat
from collections.abc import Callable
from pathlib import Path

import pytest

from flowserve import EngineConfig
from flowserve.cache_folder import cache_folder
from flowserve.device.cpu_kernels import library as library_module
from flowserve.device.cpu_kernels.build import FLAGS, built_library, compile_library, find_compiler
from flowserve.device.cpu_kernels.runner import PackedWeights
from flowserve.errors import InvalidConfigError, KernelsUnavailableError
from flowserve.models.loader import load_model


@pytest.fixture
def fresh_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty cache folder, and a process that has loaded no kernels."""
    monkeypatch.setenv("FLOWSERVE_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(library_module, "kernel_library", library_module.kernel_library.__wrapped__)
    monkeypatch.setattr("flowserve.device.cpu_kernels.runner.kernel_library", library_module.kernel_library)
    return tmp_path / "cache"


def _compiler(path: Path, body: str) -> str:
    path.write_text(f"#!/bin/sh\n{body}\n")
    path.chmod(path.stat().st_mode | stat.S_IXUSR)
    return str(path)


def test_the_second_process_compiles_nothing(
    fresh_cache: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    log = tmp_path / "log"
    monkeypatch.setenv("CXX", _compiler(tmp_path / "cxx", f'echo compiled >> {log}; for last; do :; done; : > "$last"'))
    first = built_library()
    assert first.parent == fresh_cache / "kernels" and built_library() == first
    assert log.read_text() == "compiled\n"
    assert [path.name for path in first.parent.iterdir()] == [first.name], "nothing else is left in the cache"


def test_without_a_compiler_auto_computes_in_torch(
    fresh_cache: Path, models: Callable[..., Path], monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setenv("CXX", "no-such-compiler")
    with caplog.at_level(logging.WARNING, "flowserve"):
        loaded = load_model(models(), EngineConfig())
    assert not isinstance(loaded.weights, PackedWeights)
    assert "no-such-compiler" in caplog.text
    with pytest.raises(KernelsUnavailableError, match="no-such-compiler"):
        load_model(models(), EngineConfig(cpu_backend="extension"))


def test_a_compiler_that_fails_is_quoted(fresh_cache: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CXX", _compiler(tmp_path / "cxx", "echo out of luck >&2; exit 3"))
    with pytest.raises(KernelsUnavailableError, match="out of luck"):
        built_library()
    assert list((fresh_cache / "kernels").iterdir()) == []


def test_a_library_that_is_none(fresh_cache: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CXX", _compiler(tmp_path / "cxx", 'for last; do :; done; echo junk > "$last"'))
    with pytest.raises(KernelsUnavailableError, match="cannot be loaded"):
        library_module.kernel_library()


@pytest.mark.slow
def test_a_damaged_library_is_compiled_again(
    fresh_cache: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    real, log = find_compiler(), tmp_path / "log"
    monkeypatch.setenv("CXX", _compiler(tmp_path / "cxx", f'echo compiled >> {log}; exec {real} "$@" -O0'))
    built_library().write_bytes(b"junk")
    with caplog.at_level(logging.WARNING, "flowserve"):
        assert library_module.kernel_library().lanes == 16
    assert log.read_text() == "compiled\ncompiled\n" and "anew" in caplog.text


def test_a_cache_folder_that_is_a_file(fresh_cache: Path) -> None:
    fresh_cache.write_text("")
    with pytest.raises(KernelsUnavailableError, match="cannot be kept in"):
        built_library()


def test_the_cache_folder(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.delenv("FLOWSERVE_CACHE")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    assert cache_folder() == tmp_path / "flowserve"
    monkeypatch.delenv("XDG_CACHE_HOME")
    assert cache_folder() == Path(os.path.expanduser("~")) / ".cache" / "flowserve"


@pytest.mark.parametrize(
    ("option", "value"),
    [("quantization", "int3"), ("kv_cache_dtype", "float8"), ("cpu_backend", "cuda")],
)
def test_options_that_do_not_exist(option: str, value: str) -> None:
    with pytest.raises(InvalidConfigError, match=f"{option} '{value}' is not supported"):
        EngineConfig(**{option: value})


@pytest.mark.slow
@pytest.mark.skipif(platform.machine() != "x86_64", reason="these processors are of another kind")
@pytest.mark.parametrize("processor", ["haswell", "skylake-avx512", "cascadelake", "sapphirerapids"])
def test_the_compiler_takes_the_code_for_processors_that_are_not_here(processor: str, tmp_path: Path) -> None:
    changed = (f for f in FLAGS if f not in ("-O3", "-march=native"))
    compile_library(find_compiler(), tmp_path / "kernels.so", (*changed, "-O0", f"-march={processor}"))
