"""The engines that must behave alike. A new one is a function here and a line in ENGINES."""

from __future__ import annotations

import contextlib
import ctypes
import json
import os
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import NamedTuple

from deepserve._current_client import current_client

START_TIMEOUT_S = 60.0


class Engine(NamedTuple):
    """What the tests may know of an engine beyond its address.

    leftovers: names of what values have left behind. can_deploy: it is there for other processes too, so apps are
    found by name and spawned calls outlive their script. is_private: each process has one of its own.
    """

    name: str
    url: str
    leftovers: Callable[[], list[str]]
    key: str = ""
    can_deploy: bool = True
    is_private: bool = False

    @property
    def environment(self) -> dict[str, str]:
        """For a script that is to use it."""
        return {**os.environ, "DEEPSERVE_URL": self.url, "DEEPSERVE_KEY": self.key, "DEEPSERVE_QUIET": "1"}


@contextlib.contextmanager
def embedded() -> Iterator[Engine]:
    """It starts with the first call and ends with this process."""
    leftovers = lambda: segments_in(current_client().controller.segments())  # noqa: E731
    yield Engine("embedded", "embedded", leftovers, can_deploy=False, is_private=True)


@contextlib.contextmanager
def up_over_its_socket() -> Iterator[Engine]:
    with running_up() as (pid, told, _):
        yield Engine("up", f"unix://{told['socket']}", lambda: segments_of(pid))


@contextlib.contextmanager
def up_over_a_websocket() -> Iterator[Engine]:
    with running_up() as (pid, told, key):
        yield Engine("websocket", told["url"], lambda: segments_of(pid), key)


ENGINES = {"embedded": embedded, "up": up_over_its_socket, "websocket": up_over_a_websocket}
"""DEEPSERVE_CONFORMANCE names those to be tested (`embedded,up`); all without it."""


def chosen_engines() -> list[str]:
    """Raises KeyError for one that there is not."""
    names = [name for name in os.environ.get("DEEPSERVE_CONFORMANCE", "").split(",") if name] or list(ENGINES)
    return [name for name in names if ENGINES[name]]


@contextlib.contextmanager
def running_up() -> Iterator[tuple[int, dict[str, str], str]]:
    """The controller of a `deepserve up` of its own: its process id, what it announced, its key."""
    with tempfile.TemporaryDirectory(prefix="ds-") as folder:
        environment = {**os.environ, "XDG_RUNTIME_DIR": folder, "XDG_STATE_HOME": f"{folder}/state"}
        said = Path(folder, "said")
        with said.open("wb") as output:
            command = [sys.executable, "-m", "deepserve_controller", "--up"]
            process = subprocess.Popen(
                command,
                env=environment,
                stdout=output,
                stderr=output,
                start_new_session=True,
                preexec_fn=_end_with_parent,
            )
        try:
            announcement = Path(folder, "deepserve", "up.json")
            gives_up_at_s = time.monotonic() + START_TIMEOUT_S
            while not announcement.exists():
                assert process.poll() is None and time.monotonic() < gives_up_at_s, said.read_text()
                time.sleep(0.02)
            key = Path(folder, "state", "deepserve", "key").read_text().strip()
            yield process.pid, json.loads(announcement.read_text()), key
            process.terminate()
            assert process.wait(START_TIMEOUT_S) == 0
            assert "Traceback" not in said.read_text(), said.read_text()
            assert not list(shared_memory_of(process.pid))
        finally:
            process.kill()
            process.wait()


def _end_with_parent() -> None:
    """Tests that are killed leave no controller."""
    ctypes.CDLL(None).prctl(1, signal.SIGTERM)  # PR_SET_PDEATHSIG


def shared_memory_of(pid: int) -> list[Path]:
    return list(Path("/dev/shm").glob(f"deepserve-{os.getuid()}-{pid}-*"))


def segments_of(pid: int) -> list[str]:
    return [name for folder in shared_memory_of(pid) for name in segments_in(str(folder))]


def segments_in(folder: str) -> list[str]:
    """Without what processes keep to write into again."""
    return [name for name in os.listdir(folder) if not name.startswith(".")]
