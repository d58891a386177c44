"""Work `fresh`: from the start of a script to its first result, and what is there then."""

from __future__ import annotations

import os
import select
import subprocess
import sys
import time
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from deepserve._marked_processes import marked_processes
from deepserve.bench import processes
from deepserve.errors import DeepServeError

TIMEOUT_S = 120.0
SETTLE_S = 0.3
"""From the first result until processes are counted: what was started beside it is there too."""


class SubjectFailed(DeepServeError):
    """A subject of a benchmark did not do its work; the text is what it said last."""


def first_result(python: str, script: Path, environment: dict[str, str]) -> dict[str, Any]:
    """Seconds, number of processes and megabytes of a script that prints its result and waits. Raises SubjectFailed."""
    mark = uuid.uuid4().hex
    start_s = time.perf_counter()
    started = subprocess.Popen(
        [python, str(script)],
        cwd=script.parent,
        env={**environment, processes.MARK: mark},
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        start_new_session=True,
    )
    assert started.stdout is not None
    found: dict[str, Any] = {}
    try:
        is_there = bool(select.select([started.stdout], [], [], TIMEOUT_S)[0])
        line = started.stdout.readline() if is_there else b""
        took_s = time.perf_counter() - start_s
        if line.strip() == b"1":
            time.sleep(SETTLE_S)
            alive = marked_processes(processes.MARK, mark)
            memory_mb = sum(processes.pss_mb(pid) for pid in alive)
            found = {"value": took_s, "processes": len(alive), "pss_mb": memory_mb}
    finally:
        said = _end(started)
    if not found:
        raise SubjectFailed(f"{script.name}: {said or f'no result, exit code {started.returncode}'}")
    return found


def _end(started: subprocess.Popen[bytes]) -> str:
    """Let it go on to its end; its last words."""
    try:
        said = started.communicate(b"\n", timeout=TIMEOUT_S)[1]
    except subprocess.TimeoutExpired:
        started.kill()
        said = started.communicate()[1]
    return said.decode(errors="replace").strip()[-500:]


@contextmanager
def running_up() -> Iterator[dict[str, str]]:
    """A controller of `deepserve up` with folders of its own; gives the environment in which scripts find it."""
    with TemporaryDirectory(prefix="ds-bench-") as folder:
        folders = {name: os.path.join(folder, name) for name in ("XDG_RUNTIME_DIR", "XDG_STATE_HOME")}
        for path in folders.values():
            os.mkdir(path, mode=0o700)
        environment = {**os.environ, **folders, "DEEPSERVE_QUIET": "1"}
        environment.pop("DEEPSERVE_URL", None)
        command = [sys.executable, "-m", "deepserve.cli"]
        try:
            up = subprocess.run([*command, "up"], env=environment, capture_output=True, text=True, timeout=TIMEOUT_S)
            if up.returncode:
                raise SubjectFailed(f"deepserve up: {up.stderr.strip()[-500:]}")
            yield environment
        finally:
            subprocess.run([*command, "down"], env=environment, capture_output=True, timeout=TIMEOUT_S)
