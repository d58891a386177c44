"""Large values as files in the controller's shared-memory folder: written once, mapped privately by the reader."""

from __future__ import annotations

import mmap
import os
from collections.abc import Iterable

from deepserve.errors import ProtocolError, SerializationError
from deepserve.protocol.framing import Buffer


def write_segment(folder: str, parts: Iterable[Buffer], kind: str = "v") -> str:
    """Write `parts` into a new file of `folder` and return its name, which begins with `kind`.

    Raises OSError, leaving nothing.
    """
    name = f"{kind}-{os.getpid()}-{os.urandom(8).hex()}"
    path = os.path.join(folder, name)
    fd = os.open(path, os.O_CREAT | os.O_EXCL | os.O_WRONLY | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)
    try:
        for part in parts:
            view = memoryview(part).cast("B")
            while view:
                view = view[os.write(fd, view) :]
    except BaseException:
        os.unlink(path)
        raise
    finally:
        os.close(fd)
    return name


def map_segment(folder: str, name: str, size_bytes: int, *, unlink: bool) -> memoryview:
    """Map a segment so that the reader may write into it without anyone seeing it.

    `unlink`: remove the name; the mapping lives on. Raises SerializationError where it is gone or short,
    ProtocolError where `name` is no plain file name.
    """
    path = segment_path(folder, name)
    try:
        fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW)
    except OSError as error:
        raise SerializationError(f"the value's shared-memory segment {name} is gone: {error}") from None
    try:
        if unlink:
            os.unlink(path)
        if (actual := os.fstat(fd).st_size) != size_bytes:
            raise SerializationError(f"segment {name} has {actual} bytes instead of {size_bytes}")
        mapped = mmap.mmap(fd, size_bytes, flags=mmap.MAP_PRIVATE, prot=mmap.PROT_READ | mmap.PROT_WRITE)
    finally:
        os.close(fd)
    return memoryview(mapped)


def segment_path(folder: str, name: str) -> str:
    """Raises ProtocolError unless `name` is a plain file name: it comes from a peer."""
    if not folder or not name or name in (".", "..") or "/" in name or "\0" in name or len(name) > 100:
        raise ProtocolError(f"{name!r} names no shared-memory segment")
    return os.path.join(folder, name)
