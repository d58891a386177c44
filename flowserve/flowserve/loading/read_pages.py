"""read_pages: what is mapped comes into memory. Needs no numpy: who reads headers of checkpoints imports it."""

from __future__ import annotations

import ctypes
import errno
import mmap
import os

from ..errors import LoadingError

_MADV_POPULATE_READ = 22
_libc = ctypes.CDLL(None, use_errno=True)


def read_pages(address: int, size: int, failure: str) -> None:
    """Have mapped pages in memory, the first of which begins at `address`. Other threads run meanwhile.

    All of them are asked of the disk at once; then waited for, unless the kernel is older than 5.14. Raises
    LoadingError, which begins with `failure`, where a touch would be the end of the process.
    """
    pages, length = ctypes.c_void_p(address), ctypes.c_size_t(size)
    _libc.madvise(pages, length, mmap.MADV_WILLNEED)
    if _libc.madvise(pages, length, _MADV_POPULATE_READ) and ctypes.get_errno() != errno.EINVAL:
        raise LoadingError(f"{failure}: {os.strerror(ctypes.get_errno())}")
