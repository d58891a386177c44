"""A user of their own: runtime and state folders in the test's folder, a controller that ends with the test."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from tempfile import TemporaryDirectory

import pytest

APP = """
import os
import time

import deepserve

app = deepserve.App("shop")
other = deepserve.App("stock")


@app.function
def price(item: str, count: int = 1) -> dict:
    print("pricing", item)
    return {"item": item, "total": 3 * count}


@app.function
def pid() -> int:
    return os.getpid()


@app.function
def lines(n: int):
    for i in range(n):
        yield f"line {i}"


@app.function
def fails() -> None:
    raise ValueError("no such price")


@app.function(timeout=0.3)
def slow() -> None:
    time.sleep(30)


@app.function
def wait(seconds: float = 0.0, gate: str = "") -> str:
    time.sleep(seconds)
    while gate and not os.path.exists(gate):
        time.sleep(0.01)
    return "waited"


@other.function
def left() -> int:
    return 7


@other.cls
class Shelf:
    size: int = deepserve.parameter(default=2)

    @deepserve.method()
    def room(self, taken: int) -> int:
        return self.size - taken

    @deepserve.method()
    def places(self):
        yield from range(self.size)


@app.local_entrypoint()
def main(n: int = 2) -> None:
    print("total", sum(answer["total"] for answer in price.map(["a"] * n)))
"""


class Shell:
    """Runs `deepserve ...` as this user."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.runtime = folder / "run"
        self.runtime.mkdir(mode=0o700)
        self.state = folder / "state"
        self.environment = {
            **os.environ,
            "XDG_RUNTIME_DIR": str(self.runtime),
            "XDG_STATE_HOME": str(self.state),
        }
        self.environment.pop("DEEPSERVE_URL", None)
        self.app = folder / "app.py"
        self.app.write_text(APP)

    def command(self, *words: str) -> list[str]:
        return [sys.executable, "-m", "deepserve.cli", *words]

    def run(self, *words: str, timeout_s: float = 300) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            self.command(*words),
            cwd=self.folder,
            env=self.environment,
            capture_output=True,
            text=True,
            timeout=timeout_s,
        )

    def out(self, *words: str) -> str:
        """Standard output of a command that must succeed."""
        done = self.run(*words)
        assert done.returncode == 0, done.stderr
        return done.stdout


@pytest.fixture
def shell() -> Iterator[Shell]:
    # A short path: a unix socket's name has 107 bytes at most.
    with TemporaryDirectory(prefix="ds-") as folder:
        shell = Shell(Path(folder))
        try:
            yield shell
        finally:
            shell.run("down")
