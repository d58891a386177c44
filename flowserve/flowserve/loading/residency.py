"""Residency: how much of a file the page cache holds, which says whether a start reads memory or a disk."""

from __future__ import annotations

import ctypes
import mmap
import os
from pathlib import Path

import numpy as np
import numpy.typing as npt

IN_MEMORY_SHARE = 0.9
"""From here on a file counts as being in memory."""

_NUM_WINDOWS, _WINDOW_PAGES = 64, 64
"""Of a large file so many pages are looked at in so many places: all of them take tens of milliseconds a gigabyte."""

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
    num_pages = -(-size // mmap.PAGESIZE)
    step = max(_WINDOW_PAGES, num_pages // _NUM_WINDOWS)
    found = [_flags(address, first, min(_WINDOW_PAGES, num_pages - first)) for first in range(0, num_pages, step)]
    return float(np.concatenate(found).mean())


def _flags(address: int, first: int, num_pages: int) -> npt.NDArray[np.uint8]:
    """1 for each page that is in memory."""
    flags = np.zeros(num_pages, dtype=np.uint8)
    place, size = address + first * mmap.PAGESIZE, num_pages * mmap.PAGESIZE
    if _libc.mincore(ctypes.c_void_p(place), ctypes.c_size_t(size), ctypes.c_void_p(flags.ctypes.data)):
        raise OSError(ctypes.get_errno(), "mincore")
    flags &= 1
    return flags
