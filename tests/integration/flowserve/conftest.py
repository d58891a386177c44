"""`flowserve serve` as a process on loopback, over the tiny Qwen3."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

pytest.importorskip("torch")

from tests.tiny_models import make_model  # noqa: E402


class ServeProcess:
    """`url`: where it listens, once it has said so.  startup: the lines of its log up to there."""

    def __init__(self, folder: Path, *options: str) -> None:
        command = [sys.executable, "-m", "flowserve", "serve", str(folder), "--port", "0", "--num-threads", "1"]
        self.process = subprocess.Popen(
            [*command, *options], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env={**os.environ}
        )
        assert self.process.stdout is not None
        said = self.process.stdout.readline()
        if " at http://" not in said:
            self.process.kill()
            raise AssertionError(f"it did not start: {said}{self.process.communicate()[1]}")
        self.startup: list[str] = []
        while not self.startup or not self.startup[-1].startswith("flowserve: ready "):
            assert self.process.stderr is not None
            self.startup.append(self.process.stderr.readline())
        self.url = said.split(" at ")[1].strip()
        self.port = int(self.url.rpartition(":")[2])

    def end(self, number: int = signal.SIGTERM, timeout_s: float = 300.0) -> tuple[int, str]:
        """Send the signal; the exit code and what it wrote to stderr since it was ready."""
        self.process.send_signal(number)
        _, errors = self.process.communicate(timeout=timeout_s)
        return self.process.returncode, errors


@pytest.fixture(scope="session")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_model(tmp_path_factory.mktemp("models") / "tiny", "qwen3", max_position_embeddings=4096)


@pytest.fixture
def serve(folder: Path) -> Iterator[Callable[..., ServeProcess]]:
    """`serve(*options)`: a server of one's own; killed if the test does not end it."""
    started: list[ServeProcess] = []

    def start(*options: str) -> ServeProcess:
        started.append(ServeProcess(folder, *options))
        return started[-1]

    yield start
    for each in started:
        if each.process.poll() is None:
            each.process.kill()
        each.process.communicate()


@pytest.fixture(scope="session")
def server(folder: Path) -> Iterator[ServeProcess]:
    """One server for all tests that leave it as it was; it must end cleanly and silently."""
    running = ServeProcess(folder)
    yield running
    assert running.end() == (0, "")
