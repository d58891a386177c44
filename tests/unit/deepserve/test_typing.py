"""What two type checkers say of user code: nothing of what is right, something of each line that is wrong."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
from mypy import api

HERE = Path(__file__).parent
RIGHT, WRONG = HERE / "typed_user_code.py", HERE / "wrong_user_code.py"


def mypy_errors(source: Path, cache: Path) -> dict[int, str]:
    report, errors, _ = api.run(
        ["--strict", "--config-file=", f"--cache-dir={cache}", "--follow-imports=silent", "--no-pretty", str(source)]
    )
    assert not errors, errors
    found = re.findall(rf"{re.escape(source.name)}:(\d+): error: (.*)$", report, re.MULTILINE)
    assert found or "Success" in report, report
    return {int(line): text for line, text in found}


def pyright_errors(source: Path) -> dict[int, str]:
    """It comes whole from the package index, with the node that runs it: no network is needed."""
    done = subprocess.run(
        [sys.executable, "-m", "pyright", "--pythonpath", sys.executable, "--outputjson", str(source)],
        cwd=source.parents[3],
        env={**os.environ, "PYRIGHT_PYTHON_IGNORE_WARNINGS": "1"},
        capture_output=True,
        text=True,
        timeout=240,
    )
    assert done.stdout.startswith("{"), done.stderr
    report = json.loads(done.stdout)
    assert report["summary"]["filesAnalyzed"] == 1
    return {
        found["range"]["start"]["line"] + 1: found["message"]
        for found in report["generalDiagnostics"]
        if found["severity"] == "error"
    }


def marked_lines(source: Path) -> list[int]:
    lines = source.read_text().splitlines()
    return [number for number, line in enumerate(lines, 1) if line.endswith("# error")]


@pytest.fixture(scope="module")
def cache(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("mypy")


def test_mypy_strict_sees_through_the_api(cache: Path) -> None:
    assert mypy_errors(RIGHT, cache) == {}


def test_pyright_strict_sees_through_the_api() -> None:
    assert pyright_errors(RIGHT) == {}


def test_mypy_finds_each_wrong_line(cache: Path) -> None:
    assert sorted(found := mypy_errors(WRONG, cache)) == marked_lines(WRONG), found


def test_pyright_finds_each_wrong_line() -> None:
    assert sorted(found := pyright_errors(WRONG)) == marked_lines(WRONG), found


def test_mypy_finds_nothing_in_the_guide(cache: Path, tmp_path: Path) -> None:
    guide = (HERE.parents[2] / "docs" / "guide.md").read_text()
    blocks = re.findall(r"^```python\n(.*?)^```", guide, flags=re.MULTILINE | re.DOTALL)
    scripts = [tmp_path / f"block_{number}.py" for number in range(len(blocks))]
    for script, block in zip(scripts, blocks, strict=True):
        script.write_text(block)
    report, errors, status = api.run(
        ["--config-file=", f"--cache-dir={cache}", "--follow-imports=silent", "--no-pretty", *map(str, scripts)]
    )
    assert status == 0, report + errors
