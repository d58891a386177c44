"""What every subject of `deepserve bench scale` does: workers meet, each answers once, and their memory is read.

A subject is a script beside this file. It needs nothing but the standard library and the system that it measures; its
arguments are the numbers of workers; it prints one line of JSON: a list of samples.
"""

from __future__ import annotations

import json
import math
import os
import socket
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from statistics import median
from typing import Any

SETTLE_S = 0.3
"""Before memory is read: what a worker still puts away after its answer."""


def attend(path: str) -> int:
    """In a worker: says that it is there and waits until all are, so that no worker answers for two."""
    with socket.socket(socket.AF_UNIX) as connection:
        connection.connect(path)
        connection.recv(1)
    return os.getpid()


class Meeting:
    """Where they meet."""

    def __init__(self, num_workers: int) -> None:
        self.num_workers = num_workers
        self._folder = tempfile.TemporaryDirectory(prefix="ds-meet-")
        self.path = str(Path(self._folder.name, "s"))
        self._server = socket.socket(socket.AF_UNIX)
        self._server.bind(self.path)
        self._server.listen(256)

    def wait(self) -> None:
        """Until all have come; then lets them go."""
        there = [self._server.accept()[0] for _ in range(self.num_workers)]
        for connection in there:
            connection.send(b"!")
            connection.close()

    def close(self) -> None:
        self._server.close()
        self._folder.cleanup()


def timed(num_workers: int, start: Callable[[str], Callable[[], list[int]]]) -> tuple[float, list[int]]:
    """Seconds until all have answered, and their process ids. start(path) has them `attend`, and returns a wait for
    their answers."""
    meeting = Meeting(num_workers)
    try:
        start_s = time.perf_counter()
        answers = start(meeting.path)
        meeting.wait()
        pids = answers()
        took_s = time.perf_counter() - start_s
    finally:
        meeting.close()
    assert len(set(pids)) == num_workers, f"{len(set(pids))} workers answered, not {num_workers}"
    return took_s, pids


def memory_mb(pids: list[int]) -> tuple[float, float]:
    """Of a worker in the middle: what it alone has written, and its share of all that it maps (PSS)."""
    time.sleep(SETTLE_S)
    sums: dict[str, list[int]] = {"Private_Dirty": [], "Pss": []}
    for pid in pids:
        for line in Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines():
            name, _, value = line.partition(":")
            if name in sums:
                sums[name].append(int(value.split()[0]) * 1024)
    return median(sums["Private_Dirty"]) / 1e6, median(sums["Pss"]) / 1e6


def samples(who: str, kind: str, num_workers: int, took_s: float, pids: list[int]) -> list[dict[str, Any]]:
    private_mb, pss_mb = memory_mb(pids)
    memory = {"private_mb": private_mb, "worker_pss_mb": pss_mb}
    return [{"work": f"{kind} {num_workers}", "who": who, "unit": "s", "value": took_s, **memory}]


def quantile(ordered: list[float], share: float) -> float:
    return ordered[max(0, math.ceil(len(ordered) * share) - 1)]


def numbers() -> list[int]:
    return [int(text) for text in sys.argv[1:]]


def tell(found: list[dict[str, Any]]) -> None:
    print(json.dumps(found))
