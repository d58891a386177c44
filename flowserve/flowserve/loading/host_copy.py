"""HostCopy: a file's bytes in memory that processes share, filled by direct reads (on a CPU it is the device, too)."""

from __future__ import annotations

import mmap
import os
import time
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path

from ..errors import LoadingError
from .direct_file import DirectFile
from .mapped_file import MappedFile
from .pipeline import ChunkedLoad
from .residency import IN_MEMORY_SHARE, resident_share

CACHED_CHUNK_BYTES = 4 * 2**20
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


def is_worth_bringing(sizes_bytes: Mapping[Path, int]) -> bool:
    """Not files that are small, that memory has no room for, or that the page cache holds: these come page by page."""
    size = sum(sizes_bytes.values())
    return _SMALL_BYTES <= size <= _MEMORY_SHARE * _available_bytes() and not are_in_memory(sizes_bytes)


def are_in_memory(sizes_bytes: Mapping[Path, int]) -> bool:
    """Whether the page cache holds most of these files."""
    held = sum(size * resident_share(path) for path, size in sizes_bytes.items())
    return held >= IN_MEMORY_SHARE * sum(sizes_bytes.values())


def bring(path: Path, file: int, is_direct: bool) -> tuple[int, float]:
    """A descriptor of the bytes of a file that is open as `file`, in memory where they are worth it, and the seconds
    that reading them took, 0 where they were not.

    They are read into the page cache, or with `is_direct` past it into a HostCopy. Raises LoadingError.
    """
    if not is_worth_bringing({path: os.fstat(file).st_size}):
        return file, 0.0
    began_s = time.perf_counter()
    if is_direct:
        return copied(path), time.perf_counter() - began_s
    cached = MappedFile(path)
    try:
        report = ChunkedLoad(cached, cached, chunk_bytes=CACHED_CHUNK_BYTES).wait()
    finally:
        cached.close()
    return file, report.seconds


def copied(path: Path) -> int:
    """A descriptor of a HostCopy that holds the file's bytes. Raises LoadingError."""
    file = DirectFile(path)
    copy = HostCopy(file.size_bytes)
    try:
        ChunkedLoad(file, copy).wait()
        return os.dup(copy.descriptor)
    finally:
        copy.close()
        file.close()


def _available_bytes() -> int:
    try:
        with open("/proc/meminfo") as file:
            lines = dict(line.split(":", 1) for line in file)
        return int(lines["MemAvailable"].split()[0]) << 10
    except (OSError, KeyError, ValueError):
        return 0
