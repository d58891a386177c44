"""The README and the documents are true: their code runs, their links and names exist."""

from __future__ import annotations

import os
import re
import subprocess
import sys
import tomllib
from pathlib import Path
from tempfile import TemporaryDirectory

import pytest

ROOT = Path(__file__).resolve().parents[2]
DOCUMENTS = [ROOT / "README.md", *sorted((ROOT / "docs").rglob("*.md"))]


def code_blocks(path: Path) -> list[str]:
    return re.findall(r"^```python\n(.*?)^```", path.read_text(), flags=re.MULTILINE | re.DOTALL)


BLOCKS = [(path, number, block) for path in DOCUMENTS for number, block in enumerate(code_blocks(path))]


@pytest.mark.parametrize(("path", "number", "block"), BLOCKS, ids=[f"{p.name}-{n}" for p, n, _ in BLOCKS])
def test_python_blocks_run(path: Path, number: int, block: str, tmp_path: Path) -> None:
    script = tmp_path / "block.py"
    script.write_text(block)
    has_tests = "\ndef test_" in block
    run = ["-m", "pytest", "-q", "-p", "deepserve.testing.plugin", "--rootdir", str(tmp_path)] if has_tests else []
    with TemporaryDirectory(prefix="ds-") as runtime:
        done = subprocess.run(
            [sys.executable, *run, str(script)],
            cwd=ROOT,
            env={**os.environ, "XDG_RUNTIME_DIR": runtime},
            capture_output=True,
            text=True,
            timeout=120,
        )
    assert done.returncode == 0, done.stdout + done.stderr
    if path.name == "README.md":
        assert done.stdout.split() == ["9", "9", "328350", "144"]


def test_the_readme_has_a_block() -> None:
    assert any(path.name == "README.md" for path, _, _ in BLOCKS)


@pytest.mark.parametrize("path", DOCUMENTS, ids=lambda path: path.name)
def test_links_lead_somewhere(path: Path) -> None:
    for target in re.findall(r"\]\(([^)#]+)\)", path.read_text()):
        if "://" not in target:
            assert (path.parent / target).exists(), f"{path.name} links to {target}"


def test_the_folder_table_names_what_is_packaged() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())
    packaged = project["tool"]["hatch"]["build"]["targets"]["wheel"]["packages"]
    readme = (ROOT / "README.md").read_text()
    for package in packaged:
        folder, name = package.split("/")
        assert f"| `{folder}/` | `{name}` |" in readme


def test_commands_of_the_readme_are_make_targets() -> None:
    targets = set(re.findall(r"^([a-z-]+):", (ROOT / "Makefile").read_text(), flags=re.MULTILINE))
    named = set(re.findall(r"`?make ([a-z-]+)`?", (ROOT / "README.md").read_text()))
    assert named and named <= targets
