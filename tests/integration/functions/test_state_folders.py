"""Embedded controllers that keep their state in a folder which the user names, and those that keep none."""

from __future__ import annotations

import os
import signal
from pathlib import Path

import pytest

from tests.integration.functions.conftest import ScriptRunner

FIRST = """
import os, sys
import deepserve
from deepserve._current_client import current_client
from deepserve.cli.deploy import deploy_app

INIT
app = deepserve.App("papers")

@app.function
def square(x: int) -> int: return x * x

@app.function
def variable(name: str) -> str: return os.environ.get(name, "")

if __name__ == "__main__":
    deploy_app(current_client(), app, "papers")
    print(current_client().query("new_key", {"name": "ada"})["key_id"])
    print(square.remote(3), variable.remote("DEEPSERVE_STATE"))
"""
SECOND = """
import deepserve
from deepserve._current_client import current_client

INIT
print(*(key["key_id"] for key in current_client().query("keys")["keys"]))
try:
    print(deepserve.Function.from_name("papers", "square").remote(4))
except deepserve.NotFound:
    print("none")
"""
HOLD = """
import sys
import deepserve

@deepserve.function
def square(x): return x * x

if __name__ == "__main__":
    try:
        print(square.remote(3), flush=True)
    except deepserve.StateFolderInUse as error:
        print(error)
    if sys.argv[0].endswith("held.py"):
        sys.stdin.read()
"""


@pytest.fixture
def state(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "home"))
    return tmp_path / "states" / "own"


@pytest.mark.parametrize("way", ["init", "variable"])
def test_the_next_run_has_what_the_first_one_kept(
    script: ScriptRunner, state: Path, monkeypatch: pytest.MonkeyPatch, way: str
) -> None:
    init = f"deepserve.init(state={os.path.relpath(state, script.folder)!r})" if way == "init" else ""
    if way == "variable":
        monkeypatch.setenv("DEEPSERVE_STATE", str(state))
    first = script.run(FIRST.replace("INIT", init))
    assert first.returncode == 0, first.stderr
    key_id, *rest = first.stdout.split()
    assert rest == ["9"], "its pods do not have the folder as theirs"
    assert f"its state is kept in {state}" in first.stderr
    second = script.run(SECOND.replace("INIT", init), "second.py")
    assert second.stdout.split() == [key_id, "16"], second.stderr
    assert os.stat(state).st_mode & 0o777 == 0o700


def test_without_a_folder_nothing_is_kept(script: ScriptRunner, state: Path) -> None:
    first = script.run(FIRST.replace("INIT", ""))
    assert first.returncode == 0 and "is kept" not in first.stderr, first.stderr
    assert script.run(SECOND.replace("INIT", ""), "second.py").stdout.split() == ["none"]
    assert not (state.parent.parent / "home").exists() and not state.exists()


def test_one_controller_at_a_time(script: ScriptRunner, state: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DEEPSERVE_STATE", str(state))
    holder = script.start(HOLD, "held.py", stdin=True)
    assert holder.stdout is not None and holder.stdout.readline() == "9\n"
    with holder:
        held = (state / "lock").read_text()
        second = script.run(HOLD, "second.py")
        assert second.stdout == f"{state} is in use by another controller (process {held})\n", second.stderr
        assert second.returncode == 0 and "Traceback" not in second.stderr
        holder.send_signal(signal.SIGKILL)
    assert script.run(HOLD, "third.py").stdout == "9\n", "it waits for the end of one whose script was killed"


def test_a_folder_that_cannot_be_used_is_told(
    script: ScriptRunner, state: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("DEEPSERVE_STATE", str(state))
    state.mkdir(parents=True, mode=0o755)
    done = script.run(HOLD)
    assert done.returncode == 1 and "ControllerUnreachable: the embedded controller" in done.stderr
    assert f"could not be started: {state} is open to other users" in done.stderr
    state.chmod(0o700)
    (state / "state.db").write_text("no database" * 100)
    done = script.run(HOLD)
    assert done.returncode == 1 and "state.db cannot be read" in done.stderr
