"""Work in a forked child whose memory goes with it, so that the process that asks stays as small as it was."""

from __future__ import annotations

import os
import signal
from collections.abc import Callable

from ..errors import LoadingError


def has_one_thread() -> bool:
    """Also none that a library runs: its locks would stay as they are in a forked child, without it."""
    try:
        return len(os.listdir("/proc/self/task")) == 1
    except OSError:
        return False


def run_apart(what: str, work: Callable[[], str]) -> str | None:
    """Run `work` in a child of this process, which must have one thread; what it returns.

    None where it raised: the caller then does the work itself, and gets the error with its type. Raises LoadingError
    where a signal ended the child.
    """
    reading, writing = os.pipe()
    pid = os.fork()
    if pid == 0:
        status = 1
        try:
            _write_all(writing, work().encode())
            status = 0
        finally:
            os._exit(status)  # before a traceback is printed
    os.close(writing)
    try:
        with open(reading, "rb") as file:
            said = file.read()
    finally:
        _, waited = os.waitpid(pid, 0)
    code = os.waitstatus_to_exitcode(waited)
    if code < 0:
        raise LoadingError(f"{what}: the process that did it was killed by {_signal_name(-code)}")
    return said.decode() if code == 0 else None


def _write_all(file: int, data: bytes) -> None:
    while data:
        data = data[os.write(file, data) :]


def _signal_name(number: int) -> str:
    try:
        return signal.Signals(number).name
    except ValueError:
        return f"signal {number}"
