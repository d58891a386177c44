"""HostArena and BlockFile: the memory behind the tiers below the device, on one worker."""

from __future__ import annotations

import os
import tempfile
import zlib
from pathlib import Path

from ..anonymous_memory import anonymous_memory
from ..errors import InvalidConfigError


class BlockLostError(Exception):
    """A block's data cannot be had: the file is short or damaged, or it was never written. The reason, few in number,
    is counted."""


class HostArena:
    """`num_slots` blocks of `block_bytes` in one anonymous mapping, which takes memory only where it is written."""

    def __init__(self, num_slots: int, block_bytes: int) -> None:
        """Raises InvalidConfigError where the machine has not so much."""
        self._block_bytes = block_bytes
        self._view = memoryview(anonymous_memory(num_slots * block_bytes, "host_cache_bytes"))

    def slot(self, index: int) -> memoryview:
        return self._view[index * self._block_bytes : (index + 1) * self._block_bytes]


class BlockFile:
    """Slots of one block each in a file without a name: it is gone with the process, however that ends.

    Each slot's checksum is kept here, so that a block that comes back is the one that was written.
    """

    def __init__(self, folder: str | Path | None, block_bytes: int) -> None:
        """folder: None = the system's for temporary files. Raises InvalidConfigError where it cannot be written."""
        folder = folder or tempfile.gettempdir()
        self._block_bytes = block_bytes
        self._checksums: dict[int, int] = {}
        try:
            descriptor, path = tempfile.mkstemp(prefix="flowserve-kv-", suffix=".blocks", dir=folder)
            os.unlink(path)
        except OSError as error:
            raise InvalidConfigError(f"file_cache_folder {str(folder)!r} cannot be used: {error.strerror}") from error
        self._descriptor = descriptor

    def fileno(self) -> int:
        return self._descriptor

    def write(self, slot: int, buffer: memoryview) -> None:
        """Raises BlockLostError where the disk is full or broken; the slot then holds nothing."""
        self._checksums.pop(slot, None)
        offset, rest = slot * self._block_bytes, buffer
        try:
            while rest:
                written = os.pwrite(self._descriptor, rest, offset)
                offset, rest = offset + written, rest[written:]
        except OSError as error:
            raise BlockLostError(f"the file tier cannot be written: {error.strerror}") from error
        self._checksums[slot] = zlib.crc32(buffer)

    def read(self, slot: int, buffer: memoryview) -> None:
        """Raises BlockLostError where the slot does not hold what was written to it."""
        offset, rest = slot * self._block_bytes, buffer
        try:
            while rest and (num := os.preadv(self._descriptor, [rest], offset)):
                offset, rest = offset + num, rest[num:]
        except OSError as error:
            raise BlockLostError(f"the file tier cannot be read: {error.strerror}") from error
        if rest:
            raise BlockLostError("the file tier is shorter than it was")
        if zlib.crc32(buffer) != self._checksums.get(slot):
            raise BlockLostError("a block of the file tier is damaged")

    def close(self) -> None:
        if self._descriptor >= 0:
            os.close(self._descriptor)
            self._descriptor = -1
