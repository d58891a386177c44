"""Benchmarks of starts read bytecode, as an installed package does, whatever this environment writes."""

from __future__ import annotations

import os
import subprocess
import sys
from importlib.util import cache_from_source, find_spec
from pathlib import Path

import pytest

from deepserve.bench.bytecode import PACKAGES, compile_packages


@pytest.fixture
def package(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    folder = tmp_path / "measured_package"
    (folder / "inner").mkdir(parents=True)
    for name in ("__init__.py", "inner/__init__.py", "inner/work.py"):
        (folder / name).write_text("NUMBER = 1\n")
    monkeypatch.syspath_prepend(tmp_path)
    return folder


def bytecode_of(path: Path) -> Path:
    return Path(cache_from_source(str(path)))


def test_every_module_has_bytecode_that_a_start_reads(package: Path) -> None:
    compile_packages(["measured_package", "no_package_of_this_name"])
    work = package / "inner" / "work.py"
    assert bytecode_of(work).is_file() and bytecode_of(package / "__init__.py").is_file()
    code = "import sys; sys.path.insert(0, sys.argv[1]); import measured_package.inner.work"
    variables = {**os.environ, "PYTHONDONTWRITEBYTECODE": "1"}
    command = [sys.executable, "-v", "-c", code, str(package.parent)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60, env=variables)
    assert f"code object from '{bytecode_of(work)}'" in done.stderr, done.stderr[-2000:]


def test_what_is_up_to_date_stays_and_what_is_broken_is_left(package: Path) -> None:
    (package / "broken.py").write_text("def\n")
    compile_packages(["measured_package"])
    first = bytecode_of(package / "inner" / "work.py").stat().st_mtime_ns
    compile_packages(["measured_package"])
    assert bytecode_of(package / "inner" / "work.py").stat().st_mtime_ns == first
    assert not bytecode_of(package / "broken.py").exists()


def test_the_packages_are_those_that_starts_import() -> None:
    assert all(find_spec(name) is not None for name in PACKAGES)
