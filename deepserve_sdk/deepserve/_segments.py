"""Large values as files in the controller's shared-memory folder, as their readers see them (`_arena` writes them)."""

from __future__ import annotations

import mmap
import os
import time
from collections.abc import Sequence
from typing import Protocol

from deepserve.errors import ProtocolError, SerializationError
from deepserve.protocol.framing import Buffer


class SegmentGone(SerializationError):
    """The segment was removed, or never was."""


class DistantSegments(Protocol):
    """Those of a controller on another host, which shares no memory with this one."""

    def write(self, parts: Sequence[Buffer], size_bytes: int, kind: str) -> str:
        """Raises ValueTooLarge."""

    def read(self, name: str, size_bytes: int, *, unlink: bool) -> memoryview:
        """Raises SegmentGone."""

    def remove(self, name: str) -> None:
        """One that is gone already is no error."""


distant: dict[str, DistantSegments] = {}
"""By what stands for their folder."""


def map_segment(folder: str, name: str, size_bytes: int, *, unlink: bool) -> memoryview:
    """Map a segment so that the reader may write into it without anyone seeing it.

    The mapping holds the file (its shared lock), so that its writer does not use it again meanwhile.
    `unlink`: remove the name; the mapping lives on. Raises SegmentGone, SerializationError where it is short,
    ProtocolError where `name` is no plain file name.
    """
    if (elsewhere := distant.get(folder)) is not None:
        return elsewhere.read(name, size_bytes, unlink=unlink)
    path = segment_path(folder, name)
    try:
        fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW)
        try:
            _hold(fd, path)
            # Only now: while it has this name nobody writes into it, and a name is given once.
            if unlink:
                os.unlink(path)
            else:
                os.stat(path)
        except OSError:
            os.close(fd)
            raise
    except OSError as error:
        raise SegmentGone(f"the value's shared-memory segment {name} is gone: {error}") from None
    try:
        if (actual := os.fstat(fd).st_size) < size_bytes:
            raise SerializationError(f"segment {name} has {actual} bytes instead of {size_bytes}")
        mapped = mmap.mmap(fd, size_bytes, flags=mmap.MAP_PRIVATE, prot=mmap.PROT_READ | mmap.PROT_WRITE)
    finally:
        os.close(fd)
    return memoryview(mapped)


def remove_segment(folder: str, name: str) -> None:
    """Raises ProtocolError where `name` is no plain file name; one that is gone already is no error."""
    if (elsewhere := distant.get(folder)) is not None:
        return elsewhere.remove(name)
    try:
        os.unlink(segment_path(folder, name))
    except FileNotFoundError:
        pass


def _hold(fd: int, path: str) -> None:
    """Raises FileNotFoundError where the file has lost this name, and may have its writer again."""
    import fcntl  # not there on every system on which this package can be imported

    while True:
        try:
            fcntl.flock(fd, fcntl.LOCK_SH | fcntl.LOCK_NB)
        except BlockingIOError:
            os.stat(path)
            time.sleep(0)  # somebody looks for room (`_arena.make_room`), for an instant
        except OSError:  # a file system without locks: there no file is written twice
            return
        else:
            return


def segment_path(folder: str, name: str) -> str:
    """Raises ProtocolError unless `name` is a plain file name: it comes from a peer."""
    if not folder or not name or name[0] == "." or "/" in name or "\0" in name or len(name) > 100:
        raise ProtocolError(f"{name!r} names no shared-memory segment")
    return os.path.join(folder, name)
