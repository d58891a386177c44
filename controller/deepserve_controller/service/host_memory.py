"""How much memory of this host pods may have: the machine's, or what a control group leaves of it.

`DEEPSERVE_HOST_MEMORY` says it instead, in MiB, where pods are to have less (or a small host is to be tried).
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping

from deepserve_controller.errors import ControllerError

DECLARATION = "DEEPSERVE_HOST_MEMORY"
USABLE_PERCENT = 90
"""The rest is for the controller, the templates, the user's script and the system."""


def usable_memory_mib(root: str = "/", environ: Mapping[str, str] = os.environ) -> int:
    """0 where it cannot be found out, which means no bound. `root`: where /proc and /sys are, for tests.

    Raises ControllerError for a malformed declaration.
    """
    if declared := environ.get(DECLARATION, ""):
        if not declared.isdecimal() or int(declared) < 1:
            raise ControllerError(f"{DECLARATION}={declared!r} is no number of MiB from 1 on")
        return int(declared)
    limits = [limit for limit in (_machine_bytes(root), *_group_limits_bytes(root)) if limit > 0]
    return min(limits) * USABLE_PERCENT // 100 >> 20 if limits else 0


def _machine_bytes(root: str) -> int:
    for line in _read(os.path.join(root, "proc/meminfo")).splitlines():
        if line.startswith("MemTotal:"):
            return int(line.split()[1]) << 10
    return 0


def _group_limits_bytes(root: str) -> Iterator[int]:
    """Of this process's memory control group and of each above it, version 2 or 1."""
    for line in _read(os.path.join(root, "proc/self/cgroup")).splitlines():
        _, _, rest = line.partition(":")
        controllers, _, path = rest.partition(":")
        if not controllers:
            base, name = "sys/fs/cgroup", "memory.max"
        elif "memory" in controllers.split(","):
            base, name = "sys/fs/cgroup/memory", "memory.limit_in_bytes"
        else:
            continue
        parts = [part for part in path.split("/") if part and part != ".."]
        for depth in range(len(parts) + 1):
            text = _read(os.path.join(root, base, *parts[:depth], name)).strip()
            if text.isdigit():
                yield int(text)


def _read(path: str) -> str:
    try:
        with open(path) as file:
            return file.read()
    except OSError:
        return ""
