"""What this process has in memory now."""

from __future__ import annotations

import os
from pathlib import Path

_PAGE_BYTES = os.sysconf("SC_PAGE_SIZE")


def resident_bytes() -> int:
    """What it shares included."""
    return int(Path("/proc/self/statm").read_text().split()[1]) * _PAGE_BYTES
