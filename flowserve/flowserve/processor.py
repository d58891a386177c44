"""The processors of this machine, by name."""

from __future__ import annotations

import platform
from pathlib import Path


def processor_name() -> str:
    """As the kernel has it, "AMD EPYC 9B14"; where it has none, the architecture."""
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return platform.machine()
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.machine()
