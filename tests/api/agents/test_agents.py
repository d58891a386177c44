"""The documented code runs as written: with a random model, and with one that was trained to call tools."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.tiny_models import make_model

HERE = Path(__file__).parent
TINY_TOOLS = HERE.parents[2] / "examples" / "models" / "tiny-tools"
EXPECTED = ["run True", "stream True True", "function True", "approval True"]


def run(folder: Path, context: int = 0) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, str(HERE / "clerk.py")],
        env={**os.environ, "MODEL": str(folder), "CONTEXT": str(context)},
        capture_output=True,
        text=True,
        timeout=120,
    )


def test_agents_with_a_random_model(tmp_path: Path) -> None:
    pytest.importorskip("torch")
    done = run(make_model(tmp_path / "tiny", "qwen2"), context=470)
    assert (done.returncode, done.stdout.splitlines()) == (0, EXPECTED), done.stderr


@pytest.mark.skipif(not TINY_TOOLS.is_dir(), reason="the example model is not in this checkout")
def test_agents_with_the_example_model() -> None:
    pytest.importorskip("torch")
    done = run(TINY_TOOLS)
    assert (done.returncode, done.stdout.splitlines()) == (0, EXPECTED), done.stderr
    assert "ToolCalled ToolCalled(name='pay', arguments={'amount': 20" in done.stderr
