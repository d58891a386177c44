"""The pod's own check of its resident size."""

from __future__ import annotations

import os
import time

from deepserve.protocol.specs import FunctionSpec
from deepserve_runtime import sdk

CHECK_EVERY_S = 0.1
_PAGE_BYTES = os.sysconf("SC_PAGE_SIZE")


class MemoryLimit:
    def __init__(self, memory_mib: int) -> None:
        self.memory_mib = memory_mib
        self._fd = os.open("/proc/self/statm", os.O_RDONLY | os.O_CLOEXEC)
        self._next_s = 0.0

    def close(self) -> None:
        os.close(self._fd)

    def excess(self) -> str:
        """In words by how much the limit is passed; empty while it is kept."""
        now_s = time.monotonic()
        if now_s < self._next_s:
            return ""
        self._next_s = now_s + CHECK_EVERY_S
        resident_mib = int(os.pread(self._fd, 128, 0).split()[1]) * _PAGE_BYTES / (1 << 20)
        if resident_mib > self.memory_mib:
            resident_mib -= sdk.mapped_bytes() / (1 << 20)  # files for results, which are not the function's
        if resident_mib <= self.memory_mib:
            return ""
        return f"the pod uses {resident_mib:.0f} MiB of memory, its limit is {self.memory_mib} MiB"


def load_error(spec: FunctionSpec, excess: str) -> Exception:
    """Of a function that takes more memory than its pods may have while it is loaded; others would fare no better."""
    if spec.model is None:
        return MemoryError(excess)
    text = f"memory={spec.resources.memory_mib} MiB is too small: while the model was loaded {excess}"
    return sdk.errors.InvalidModelOption(f"Model {spec.model.name!r}: {text}")
