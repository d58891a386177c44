"""Residency: how much of a file the page cache holds, which says whether a start reads memory or a disk."""

from __future__ import annotations

import ctypes
import mmap
import os
from pathlib import Path

import numpy as np

IN_MEMORY_SHARE = 0.9
"""From here on a file counts as being in memory."""

_libc = ctypes.CDLL(None, use_errno=True)


def resident_share(path: Path) -> float:
    """Part of a file's pages that are in memory, 0 to 1; 0 where it cannot be known. Reads none of them.

    Source: mincore(2), which since Linux 5.2 tells owners of a file and those who may write it.
    """
    try:
        file = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    except OSError:
        return 0.0
    try:
        size = os.fstat(file).st_size
        if size == 0:
            return 1.0
        with mmap.mmap(file, 0, mmap.MAP_PRIVATE, mmap.PROT_READ | mmap.PROT_WRITE) as pages:
            return _share(ctypes.addressof(ctypes.c_char.from_buffer(pages)), size)
    except OSError:
        return 0.0
    finally:
        os.close(file)


def _share(address: int, size: int) -> float:
    flags = np.zeros(-(-size // mmap.PAGESIZE), dtype=np.uint8)
    found = _libc.mincore(ctypes.c_void_p(address), ctypes.c_size_t(size), ctypes.c_void_p(flags.ctypes.data))
    return float((flags & 1).mean()) if found == 0 else 0.0
