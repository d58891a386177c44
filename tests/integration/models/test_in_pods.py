"""Models and agents inside pods: their requests are children of the caller's request, their files are the caller's."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import uuid
from pathlib import Path

from tests.tiny_models import make_model
from tests.waiting import wait_for

APP = Path(__file__).parent / "pod_app.py"


def test_functions_that_use_a_model(tmp_path: Path) -> None:
    make_model(tmp_path / "weights" / "tiny", "qwen3")
    script = tmp_path / "pod_app.py"
    script.write_text(APP.read_text())
    mark = uuid.uuid4().hex
    # A current folder from which the model cannot be found by accident.
    done = subprocess.run(
        [sys.executable, str(script)],
        cwd="/",
        env={**os.environ, "DEEPSERVE_TEST_MARK": mark},
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert done.returncode == 0, done.stderr
    asked, asked_async, agents, by_value, tools = map(json.loads, done.stdout.splitlines())
    assert asked["source"] == asked["same"] == str(tmp_path / "weights" / "tiny")
    assert asked["stream"]
    assert set(asked_async) <= {"True", "False"} and len(asked_async) == 3
    assert set(agents) <= {"yes", "no"}
    assert isinstance(by_value, str)
    for ran in tools:
        assert ran == [
            ["1", "8", "pod"],
            ["2", "error: ValueError: only upwards", "pod"],
            ["3", "error: add: argument 'a' is missing, argument 'b' is missing (it takes: a, b)", "here"],
        ]
    wait_for(lambda: processes_with(mark) == [])


def processes_with(mark: str) -> list[str]:
    """Command lines of processes that inherited `mark` in their environment."""
    found = []
    for entry in Path("/proc").iterdir():
        try:
            if entry.name.isdigit() and mark.encode() in (entry / "environ").read_bytes():
                found.append((entry / "cmdline").read_text())
        except OSError:
            continue
    return found
