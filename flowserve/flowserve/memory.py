"""The memory of this process, and of the machine or container that it runs in."""

from __future__ import annotations

import os
from collections.abc import Iterable
from pathlib import Path

_PAGE_BYTES = os.sysconf("SC_PAGE_SIZE")
CGROUP_LIMITS = ("/sys/fs/cgroup/memory.max", "/sys/fs/cgroup/memory/memory.limit_in_bytes")


def resident_bytes() -> int:
    """Of this process now, what it shares included."""
    return int(Path("/proc/self/statm").read_text().split()[1]) * _PAGE_BYTES


def anonymous_bytes() -> int:
    """Of `resident_bytes` what is in no file, and so stays where it is."""
    resident, in_files = Path("/proc/self/statm").read_text().split()[1:3]
    return (int(resident) - int(in_files)) * _PAGE_BYTES


def host_bytes(limit_files: Iterable[str] = CGROUP_LIMITS) -> int:
    """Of the machine, or of the container that this process runs in."""
    has = _PAGE_BYTES * os.sysconf("SC_PHYS_PAGES")
    for file in limit_files:
        try:
            text = Path(file).read_text().strip()
        except OSError:
            continue
        if text.isdecimal():
            has = min(has, int(text))
    return has
