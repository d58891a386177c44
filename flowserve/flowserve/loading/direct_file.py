"""DirectFile: reads past the page cache (O_DIRECT) where the file system can, through it where it cannot."""

from __future__ import annotations

import errno
import mmap
import os
from pathlib import Path

from ..errors import LoadingError

ALIGNMENT = mmap.PAGESIZE
"""Of offsets, sizes and buffers of direct reads; no device asks for more."""


class DirectFile:
    """Raises LoadingError naming the file where it cannot be opened or read."""

    def __init__(self, path: Path, is_direct: bool = True) -> None:
        self.path = path
        self._direct: int | None = None
        self._has_direct = True
        try:
            self._plain = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
        except OSError as error:
            raise LoadingError(f"{path}: {error.strerror}") from error
        self.size_bytes = os.fstat(self._plain).st_size
        if is_direct:
            try:
                self._direct = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_DIRECT)
            except OSError:  # a file system without it
                pass

    @property
    def is_direct(self) -> bool:
        """Whether reads go past the page cache, as far as it has shown."""
        return self._direct is not None and self._has_direct

    def read_into(self, offset: int, buffer: memoryview) -> None:
        """Fill `buffer`, which begins at a page, from an offset that does. Reads of several threads do not disturb one
        another."""
        done = 0
        while done < len(buffer):
            count = self._read(offset + done, buffer[done:])
            if count == 0:
                raise LoadingError(f"{self.path}: ends at byte {offset + done}: it was cut while it was read")
            done += count

    def _read(self, offset: int, buffer: memoryview) -> int:
        whole = len(buffer) // ALIGNMENT * ALIGNMENT
        direct = self._direct
        try:
            if direct is not None and self._has_direct and whole and offset % ALIGNMENT == 0:
                try:
                    return os.preadv(direct, [buffer[:whole]], offset)
                except OSError as error:
                    if error.errno != errno.EINVAL:
                        raise
                    self._has_direct = False  # it was opened, and cannot do it all the same
            return os.preadv(self._plain, [buffer], offset)
        except OSError as error:
            raise LoadingError(f"{self.path}: cannot be read at byte {offset}: {error.strerror}") from error

    def close(self) -> None:
        for file in (self._plain, self._direct):
            if file is not None:
                os.close(file)
