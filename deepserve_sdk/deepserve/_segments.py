"""Large values as files in the controller's shared-memory folder, as their readers see them (`_arena` writes them)."""

from __future__ import annotations

import errno
import mmap
import os
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import ClassVar, Protocol

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
    fd = _open_held(folder, name, size_bytes, unlink)
    try:
        return _mapped(fd, size_bytes)
    finally:
        os.close(fd)


@contextmanager
def segment_content(
    folder: str, name: str, size_bytes: int, *, unlink: bool, only_copied: bytes
) -> Iterator[memoryview]:
    """What `map_segment` gives; but content that begins with `only_copied` is there inside of the block only.

    Its file is its writer's again at the block's end, and the mapping is kept for the next value in that file.
    """
    if folder in distant:
        yield map_segment(folder, name, size_bytes, unlink=unlink)
        return
    fd = _open_held(folder, name, size_bytes, unlink)
    warm = None
    try:
        if os.pread(fd, len(only_copied), 0) == only_copied:
            from deepserve._warm_mappings import warm_mappings

            warm = warm_mappings.of(fd, size_bytes)
        if warm is None:
            yield _mapped(fd, size_bytes)
        else:
            with memoryview(warm)[:size_bytes] as content:
                yield content
    finally:
        if warm is not None:
            _unlock(fd)
        os.close(fd)


def _open_held(folder: str, name: str, size_bytes: int, unlink: bool) -> int:
    """A descriptor that has the shared lock, which mappings made of it have, too. Raises as `map_segment` does."""
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
    if (actual := os.fstat(fd).st_size) < size_bytes:
        os.close(fd)
        raise SerializationError(f"segment {name} has {actual} bytes instead of {size_bytes}")
    return fd


def _mapped(fd: int, size_bytes: int) -> memoryview:
    mapping = _Mapping.of(fd, size_bytes)
    return memoryview(_copied(fd, size_bytes) if mapping is None else mapping)


class _Mapping(mmap.mmap):
    """Each holds a descriptor as long as it lives (up to Python 3.12), which are the user's too: a process that keeps
    thousands of values gets further ones as copies."""

    _living: ClassVar[list[None]] = []
    _max_living: ClassVar[int] = 0
    _is_counted = False

    @classmethod
    def of(cls, fd: int, size_bytes: int) -> _Mapping | None:
        """None where there are too many."""
        if not cls._max_living:
            import resource

            soft, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
            cls._max_living = max(64, soft // 4) if soft > 0 else 1 << 20
        if len(cls._living) >= cls._max_living:
            return None
        try:
            mapping = cls(fd, size_bytes, flags=mmap.MAP_PRIVATE, prot=mmap.PROT_READ | mmap.PROT_WRITE)
        except OSError as error:
            if error.errno in (errno.EMFILE, errno.ENOMEM):
                return None
            raise
        cls._living.append(None)
        mapping._is_counted = True
        return mapping

    def __del__(self) -> None:
        if self._is_counted:
            self._living.pop()


def _copied(fd: int, size_bytes: int) -> bytearray:
    content = bytearray(size_bytes)
    view = memoryview(content)
    while view:
        view = view[os.preadv(fd, [view], size_bytes - len(view)) :]
    return content


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


def _unlock(fd: int) -> None:
    """Also for a child that was forked meanwhile, and for the mapping that is kept."""
    import fcntl

    try:
        fcntl.flock(fd, fcntl.LOCK_UN)
    except OSError:  # a file system without locks
        pass


def segment_path(folder: str, name: str) -> str:
    """Raises ProtocolError unless `name` is a plain file name: it comes from a peer."""
    if not folder or not name or name[0] == "." or "/" in name or "\0" in name or len(name) > 100:
        raise ProtocolError(f"{name!r} names no shared-memory segment")
    return os.path.join(folder, name)
