"""One embedded controller for all tests of this folder, and scripts that bring their own."""

from __future__ import annotations

import os
import subprocess
import sys
import uuid
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from deepserve import _current_client, settings
from deepserve._current_client import current_client
from tests.waiting import wait_for

Script = Callable[..., subprocess.CompletedProcess[str]]


@pytest.fixture(scope="session", autouse=True)
def embedded() -> Iterator[None]:
    before = _current_client.installed_client()
    settings.use_settings(settings.Settings(url="embedded", quiet=True))
    _current_client.install(None)
    yield
    _current_client.install(before)
    settings.use_settings(None)


@pytest.fixture(autouse=True)
def nothing_left() -> Iterator[None]:
    """No request is open and no segment is left after a test."""
    yield
    client = current_client()
    wait_until(lambda: client.inboxes.num_open == 0)
    wait_until(lambda: [name for name in os.listdir(client.welcome.segments) if not name.startswith(".")] == [])


def wait_until(condition: Callable[[], bool]) -> None:
    wait_for(condition)


def processes_with(mark: str) -> list[str]:
    """Command lines of processes that inherited the environment variable."""
    found = []
    for folder in Path("/proc").iterdir():
        if folder.name.isdecimal():
            try:
                if mark.encode() in (folder / "environ").read_bytes():
                    found.append((folder / "cmdline").read_bytes().replace(b"\0", b" ").decode())
            except OSError:  # it ended, or belongs to somebody else
                continue
    return found


class ScriptRunner:
    """Runs a script with an embedded controller of its own, of which nothing may be left afterwards."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.mark = f"mark-{uuid.uuid4().hex}"
        self._shared_before = set(os.listdir("/dev/shm"))

    @property
    def environment(self) -> dict[str, str]:
        return {**os.environ, "DEEPSERVE_URL": "embedded", "DEEPSERVE_TEST_MARK": self.mark}

    def write(self, text: str, name: str = "app.py") -> Path:
        path = self.folder / name
        path.write_text(text)
        return path

    def start(self, text: str, name: str = "app.py", *, stdin: bool = False) -> subprocess.Popen[str]:
        return subprocess.Popen(
            [sys.executable, str(self.write(text, name))],
            cwd=self.folder,
            env=self.environment,
            stdin=subprocess.PIPE if stdin else None,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )

    def run(self, text: str, name: str = "app.py") -> subprocess.CompletedProcess[str]:
        script = self.start(text, name)
        out, err = script.communicate(timeout=120)
        return subprocess.CompletedProcess(script.args, script.returncode, out, err)

    def check_nothing_left(self) -> None:
        wait_until(lambda: processes_with(self.mark) == [])
        wait_until(lambda: self._orphans() == [])

    def _orphans(self) -> list[str]:
        """Folders of segments whose controller is gone; those of others' living controllers do not count."""
        new = set(os.listdir("/dev/shm")) - self._shared_before
        return [
            name for name in new if name.startswith("deepserve-") and not os.path.exists(f"/proc/{name.split('-')[2]}")
        ]


@pytest.fixture
def script(tmp_path: Path) -> Iterator[ScriptRunner]:
    runner = ScriptRunner(tmp_path)
    yield runner
    runner.check_nothing_left()
