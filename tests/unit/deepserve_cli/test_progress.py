"""The progress bar: on a terminal only, and transparent for what is iterated."""

from __future__ import annotations

import os
import pty
import subprocess
import sys

SCRIPT = "import deepserve; print(sum(deepserve.progress(iter(range(5)), total=5, description='survey')))"


def test_a_terminal_gets_a_bar() -> None:
    ours, theirs = pty.openpty()
    try:
        command = [sys.executable, "-c", SCRIPT]
        environment = {**os.environ, "TERM": "xterm", "COLUMNS": "100"}
        done = subprocess.run(command, stdout=subprocess.PIPE, stderr=theirs, text=True, env=environment, timeout=60)
        drawn = os.read(ours, 1 << 16).decode()
    finally:
        os.close(ours)
        os.close(theirs)
    assert done.stdout == "10\n"
    assert "survey" in drawn and "5/5" in drawn


def test_a_pipe_gets_none() -> None:
    done = subprocess.run([sys.executable, "-c", SCRIPT], capture_output=True, text=True, timeout=60)
    assert (done.stdout, done.stderr) == ("10\n", "")


def test_leaving_early_closes_what_is_iterated() -> None:
    from deepserve import progress

    closed = []

    def numbers() -> object:
        try:
            yield from range(10)
        finally:
            closed.append(True)

    bar = progress(numbers())  # type: ignore[arg-type]
    assert next(bar) == 0
    bar.close()  # type: ignore[attr-defined]
    assert closed == [True]
