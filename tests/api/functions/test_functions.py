"""The blocks of the API page that are about functions, run as their users run them."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

HERE = Path(__file__).parent
ENVIRONMENT = {**os.environ, "DEEPSERVE_URL": "embedded", "DEEPSERVE_QUIET": "1"}


@pytest.mark.parametrize(
    "name", ["first_steps", "streams", "classes", "values", "batched", "dependencies", "replay", "groups"]
)
def test_block(name: str) -> None:
    done = subprocess.run(
        [sys.executable, str(HERE / f"{name}.py")], env=ENVIRONMENT, capture_output=True, text=True, timeout=60
    )
    assert (done.stdout, done.stderr) == ("done\n", "")


def test_entrypoint() -> None:
    done = subprocess.run(
        [sys.executable, "-m", "deepserve.cli", "run", str(HERE / "entrypoint.py"), "--n", "5"],
        env=ENVIRONMENT,
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert (done.returncode, done.stdout) == (0, "30\n"), done.stderr
