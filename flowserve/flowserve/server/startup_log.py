"""What a server says while it starts, on the log `flowserve`: a line for each step, with the time that it took."""

from __future__ import annotations

import logging
import os
import time
from collections.abc import Callable
from typing import TypeVar

T = TypeVar("T")

_logger = logging.getLogger("flowserve")


def say(line: str) -> None:
    _logger.info("%s", line)


def timed(work: Callable[[], T]) -> tuple[T, float]:
    """What it returns, and the seconds that it took."""
    began_s = time.perf_counter()
    return work(), time.perf_counter() - began_s


def age_s() -> float:
    """Seconds since this process began (to 10 ms: the kernel counts in ticks)."""
    with open("/proc/self/stat") as file:
        ticks = int(file.read().rpartition(")")[2].split()[19])
    return time.clock_gettime(time.CLOCK_BOOTTIME) - ticks / os.sysconf("SC_CLK_TCK")
