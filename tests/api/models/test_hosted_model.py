"""The documented code runs as written, and type checkers see through it."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.tiny_models import make_model

HERE = Path(__file__).parent


def test_hosted_model(tmp_path: Path) -> None:
    pytest.importorskip("torch")
    pytest.importorskip("openai")
    folder = make_model(tmp_path / "tiny", "llama", max_position_embeddings=128)
    done = subprocess.run(
        [sys.executable, str(HERE / "hosted_model.py")],
        env={**os.environ, "MODEL": str(folder)},
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert done.returncode == 0, done.stderr
    lines = done.stdout.splitlines()
    assert [line.split(" True")[0] for line in lines] == [
        "generate",
        "chat",
        "chat text",
        "choices",
        "logprobs",
        "texts",
        "stream",
        "output Person",
        "union",
        "truncated",
        "embed",
        "context",
        "openai",
        "aio",
        "aio stream",
        "aio embed",
        "aio context",
        "aio chat",
    ], done.stdout
    assert "False" not in done.stdout


def test_types_are_seen_through() -> None:
    pytest.importorskip("mypy")
    done = subprocess.run(
        [sys.executable, "-m", "mypy", "--strict", str(HERE / "typed.py")],
        capture_output=True,
        text=True,
        cwd=HERE.parents[2],
        timeout=300,
    )
    assert done.returncode == 0, done.stdout
