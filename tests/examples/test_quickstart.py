"""The main job: `deepserve run examples/quickstart.py` does what the README promises, on real input."""

from __future__ import annotations

import ast
import os
import re
import subprocess
import sys
import textwrap
from pathlib import Path
from tempfile import TemporaryDirectory

import pytest

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture(scope="module")
def output() -> str:
    with TemporaryDirectory(prefix="ds-") as runtime:
        done = subprocess.run(
            [sys.executable, "-m", "deepserve.cli", "run", "examples/quickstart.py"],
            cwd=ROOT,
            env={**os.environ, "XDG_RUNTIME_DIR": runtime},
            capture_output=True,
            text=True,
            timeout=300,
        )
        assert done.returncode == 0, done.stderr
        assert sorted(path.name for path in Path(runtime, "deepserve").iterdir() if path.name != "lock") == []
    return done.stdout


def test_the_survey_counts_the_standard_library(output: str) -> None:
    found = re.search(r"files +([\d,]+)\n +lines +([\d,]+)\n +functions +([\d,]+)", output)
    assert found is not None, output
    files, lines, functions = (int(number.replace(",", "")) for number in found.groups())
    assert files > 300 and lines > 100_000 and functions > 5_000
    assert "self" in output.partition("most used names")[2].splitlines()[0]


def test_the_model_streams_an_answer_about_the_product(output: str) -> None:
    answer = output.partition("> What is DeepServe?")[2].partition("(c)")[0]
    assert "DeepServe" in answer


def test_the_agent_calls_its_tools_and_uses_their_results(output: str) -> None:
    dialogue = output.partition("(c)")[2].partition("What ran where")[0]
    decoder = ast.parse(Path(re.__file__).parents[1].joinpath("json", "decoder.py").read_bytes())
    functions = [node for node in ast.walk(decoder) if isinstance(node, ast.FunctionDef)]
    assert "calls count_functions(module='json.decoder')" in dialogue
    assert f"count_functions returned {len(functions)} in" in dialogue
    wrapping = ast.parse(Path(textwrap.__file__).read_bytes())
    functions = [node for node in ast.walk(wrapping) if isinstance(node, ast.FunctionDef)]
    longest = max(functions, key=lambda node: (node.end_lineno or 0) - node.lineno)
    assert "calls longest_function(module='textwrap')" in dialogue
    assert dialogue.count(longest.name) >= 2, "in the result and in the answer"
    assert "calls multiply(a=17, b=23)" in dialogue
    assert dialogue.count("391") >= 2, "in the result and in the answer"


def test_it_says_what_ran_where(output: str) -> None:
    table = output.partition("What ran where")[2]
    for label in ("quickstart/survey", "quickstart/count_functions", "quickstart/multiply", "tiny-tools"):
        [row] = [line for line in table.splitlines() if label in line]
        assert re.search(r"rq-\S+ +job-\d+ +task-\d+ +pod-\d+ +[\d.]+$", row), row
