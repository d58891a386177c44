"""MappedFile: a file whose bytes come into the page cache, from where every process maps them."""

from __future__ import annotations

import mmap
import os
from pathlib import Path

import numpy as np

from ..errors import LoadingError
from .read_pages import read_pages


class MappedFile:
    """Source and last tier of a ChunkedLoad in one: what is read stays where the system keeps it, for the next start
    too, and can be given up when memory is short. Costs half the processor time of a copy.

    Raises LoadingError naming the file where it cannot be opened or read.
    """

    is_direct = False

    def __init__(self, path: Path) -> None:
        self.path = path
        try:
            self._file = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
        except OSError as error:
            raise LoadingError(f"{path}: {error.strerror}") from error
        self.size_bytes = os.fstat(self._file).st_size
        self._pages = mmap.mmap(self._file, self.size_bytes, mmap.MAP_SHARED, mmap.PROT_READ)
        self._bytes = memoryview(self._pages)
        self._base = int(np.frombuffer(self._pages, dtype=np.uint8).ctypes.data)

    def room(self, offset: int, size: int) -> memoryview:
        return self._bytes[offset : offset + size]

    def read_into(self, offset: int, buffer: memoryview) -> None:
        read_pages(self._base + offset, len(buffer), f"{self.path}: cannot be read at byte {offset}")

    def put(self, offset: int, data: memoryview) -> None:
        raise AssertionError("all of it has room")

    def close(self) -> None:
        os.close(self._file)
