"""The README and the documents are true: their code runs, their links and names exist."""

from __future__ import annotations

import json
import os
import re
import shlex
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
        told = {0: "9\n9\n328350\n144\n", 1: "DeepServe is an embedded serverless SDK for Python with "}
        assert done.stdout.startswith(told[number])


def test_the_readme_has_its_blocks() -> None:
    assert [number for path, number, _ in BLOCKS if path.name == "README.md"] == [0, 1]


def test_the_readme_s_server_answers_as_it_is_asked_there() -> None:
    """Its lines as they stand, but for the environment's folder and the port, which may be taken here."""
    blocks = re.findall(r"^```\w*\n(.*?)^```", (ROOT / "README.md").read_text(), flags=re.MULTILINE | re.DOTALL)
    [serve] = [block for block in blocks if "flowserve serve" in block]
    [ask] = [block for block in blocks if "curl" in block]
    command = shlex.split(serve.replace(".venv/bin/", f"{Path(sys.executable).parent}/"), comments=True)
    assert command[-2:] == ["--port", "8000"] and "http://127.0.0.1:8000/" in ask
    with subprocess.Popen([*command[:-1], "0"], cwd=ROOT, stdout=subprocess.PIPE, text=True) as server:
        try:
            assert server.stdout is not None
            told = re.fullmatch(r"FlowServe: tiny-tools at http://127\.0\.0\.1:(\d+)\n", server.stdout.readline())
            assert told is not None
            asked = ask.replace(":8000/", f":{told[1]}/")
            done = subprocess.run(["bash", "-c", asked], capture_output=True, text=True, timeout=120)
            [choice] = json.loads(done.stdout)["choices"]
            assert choice["message"]["content"].startswith("DeepServe is")
        finally:
            server.terminate()
    assert server.returncode == 0


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
