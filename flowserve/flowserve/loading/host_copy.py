"""HostCopy: a file's bytes in memory that processes share, filled by direct reads (on a CPU it is the device, too)."""

from __future__ import annotations

import mmap
import os
from contextlib import suppress
from pathlib import Path

from ..errors import LoadingError
from .pipeline import load_file
from .residency import IN_MEMORY_SHARE, resident_share

_MADV_HUGEPAGE = 14
_SMALL_BYTES = 64 * 2**20
"""A file of less is there before threads would be."""
_MEMORY_SHARE = 0.5
"""Of what the system says is available: a copy cannot be given up like the page cache when memory is short."""


class HostCopy:
    """A Destination. `descriptor`: of the memory; whoever maps it, or inherits a mapping, shares the bytes.

    It belongs to no file: it goes with the last process that maps it. Raises LoadingError where memory is short.
    """

    def __init__(self, size_bytes: int, name: str = "flowserve-weights") -> None:
        self._name = name
        self.descriptor = os.memfd_create(name, os.MFD_CLOEXEC)
        os.ftruncate(self.descriptor, size_bytes)
        self._pages = mmap.mmap(self.descriptor, size_bytes)
        with suppress(OSError):  # a kernel without them for shared memory
            self._pages.madvise(_MADV_HUGEPAGE)
        self._bytes = memoryview(self._pages)

    def room(self, offset: int, size: int) -> memoryview:
        try:  # now: a page that cannot be had would otherwise be a signal
            os.posix_fallocate(self.descriptor, offset, size)
        except OSError as error:
            raise LoadingError(f"{self._name}: no memory for {len(self._bytes) / 1e6:.0f} MB of weights") from error
        return self._bytes[offset : offset + size]

    def put(self, offset: int, data: memoryview) -> None:
        self._bytes[offset : offset + len(data)] = data

    def close(self) -> None:
        """Let go of it; mappings that were made of `descriptor` stay."""
        self._bytes.release()
        with suppress(BufferError):  # somebody holds a room: it goes with that
            self._pages.close()
        os.close(self.descriptor)


def is_worth_copying(path: Path) -> bool:
    """A large file that the page cache does not hold, and for which there is memory."""
    try:
        size = path.stat().st_size
    except OSError:
        return False
    if size < _SMALL_BYTES or size > _MEMORY_SHARE * _available_bytes():
        return False
    return resident_share(path) < IN_MEMORY_SHARE


def copied(path: Path) -> int:
    """A descriptor of memory that holds the file's bytes, read by several threads at once. Raises LoadingError."""
    copy = HostCopy(path.stat().st_size)
    try:
        load_file(path, copy)
        return os.dup(copy.descriptor)
    finally:
        copy.close()


def _available_bytes() -> int:
    try:
        with open("/proc/meminfo") as file:
            lines = dict(line.split(":", 1) for line in file)
        return int(lines["MemAvailable"].split()[0]) << 10
    except (OSError, KeyError, ValueError):
        return 0
