"""Waiting in tests for what is to come about: for a condition, never for a time that should do."""

from __future__ import annotations

import time
from collections.abc import Callable, Collection
from pathlib import Path

TIMEOUT_S = 60.0
_POLL_S = 0.005
_LOOK_S = 0.05
"""A process that computes has used a tick (10 ms) of a core by then, unless others had all of them."""


def wait_for(is_so: Callable[[], object], timeout_s: float = TIMEOUT_S) -> None:
    until_s = time.monotonic() + timeout_s
    while not is_so():
        assert time.monotonic() < until_s, "it did not come about in time"
        time.sleep(_POLL_S)


def used_ticks(pids: Collection[int]) -> int:
    """What living processes have computed, in hundredths of a core's seconds: how far they are, however busy the
    machine is."""
    ticks = 0
    for pid in pids:
        try:
            fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
        except OSError:  # it has ended
            continue
        ticks += int(fields[11]) + int(fields[12])
    return ticks


def wait_until_they_work(pids: Collection[int], ticks: int) -> None:
    """So much more than by now."""
    before = used_ticks(pids)
    wait_for(lambda: used_ticks(pids) >= before + ticks)


def wait_until_they_rest(pids: Collection[int]) -> None:
    """They have nothing to compute any more."""

    def rest() -> bool:
        before = used_ticks(pids)
        time.sleep(_LOOK_S)
        return used_ticks(pids) == before

    wait_for(rest)
