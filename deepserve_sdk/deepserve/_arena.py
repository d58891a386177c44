"""The files that this process writes large values into, again and again.

A value in a fresh shared-memory file costs three times its copy: every page is allocated, cleared and faulted in. So a
writer keeps its files, and writes into one again once nobody can read what it held. The file system knows when:

- a value's name is a hard link of its own, which whoever needs it no more removes (its reader, or the controller);
  the writer's own name, which begins with a dot, is then the only one left;
- a reader holds a shared lock (`flock`) on the open file under its mapping. The kernel gives it up with the last
  mapping, in whatever process that is: it outlives closed descriptors, is inherited by fork, and ends with kill -9.

The writer takes the exclusive lock to look and to write. A reader that comes too late finds the lock taken, or its name
gone, and never another value's bytes. Removing a writer's own name takes the file out of its hands at any time.
"""

from __future__ import annotations

import errno
import fcntl
import mmap
import os
import threading
from collections import deque
from collections.abc import Sequence
from itertools import count

from deepserve.protocol.framing import Buffer

POOL_BYTES = 256 << 20
"""What one process keeps at most, in use or not, and never more than half of the file system."""
POOL_FILES = 32
LOOK_NEW, LOOK_OLD = 3, 5
"""How many files are tried: the last used ones are in the processor's cache, the first used ones are the likeliest to
be free."""
COPY_BYTES = 4 << 20
"""Copied at a time, so that other threads get their turn."""
_PAGE_BYTES = 4096


class Arena:
    """Thread-safe. One per folder and process."""

    def __init__(self, folder: str) -> None:
        self.folder = folder
        self._pid = os.getpid()
        self._token = os.urandom(4).hex()
        self._numbers = count(1)
        self._lock = threading.Lock()
        self._files: deque[_PoolFile] = deque()
        """Last used first. One that is being written is in nobody's hands but its writer's."""
        self._num_bytes = 0
        self._may_lock = True
        disk = os.statvfs(folder)
        self._max_bytes = min(POOL_BYTES, disk.f_blocks * disk.f_frsize // 2)

    @property
    def num_bytes(self) -> int:
        """Shared memory that the files kept for later take, read or not."""
        return self._num_bytes

    def write(self, parts: Sequence[Buffer], size_bytes: int, kind: str) -> str:
        """A new name, beginning with `kind`, for a file that holds `parts`.

        Raises OSError (ENOSPC where the file system is full), leaving nothing.
        """
        name = f"{kind}-{self._pid}-{self._token}{next(self._numbers):x}"
        path = os.path.join(self.folder, name)
        if size_bytes > self._max_bytes // 2 or not self._may_lock:
            self._write_once(path, parts, size_bytes)
            return name
        file = self._take(size_bytes)
        if file is None:  # no room for the whole size class
            self._write_once(path, parts, size_bytes)
            return name
        try:
            file.fill(parts)
            os.link(file.path, path)
            fcntl.flock(file.fd, fcntl.LOCK_UN)
        except FileNotFoundError:  # our name for it was removed just now, and without one it gets no other
            file.drop()
            self._write_once(path, parts, size_bytes)
            return name
        except BaseException:
            file.drop()
            _unlink(path)
            raise
        self._keep(file)
        return name

    # --- the pool ---

    def _take(self, size_bytes: int) -> _PoolFile | None:
        """A free file of at least this size, locked for writing; None where there is no room for one."""
        with self._lock:
            fitting = [file for file in self._files if size_bytes <= file.size_bytes <= 4 * size_bytes]
            for file in fitting[:LOOK_NEW] + fitting[LOOK_NEW:][: -LOOK_OLD - 1 : -1]:
                found = file.try_lock()
                if found is None:
                    continue
                self._files.remove(file)
                self._num_bytes -= file.size_bytes
                if found:
                    return file
                file.drop()
        return self._make(_size_class(size_bytes))

    def _make(self, size_bytes: int) -> _PoolFile | None:
        path = os.path.join(self.folder, f".pool-{self._pid}-{self._token}{next(self._numbers):x}")
        for is_last in (False, True):
            try:
                return _PoolFile(path, size_bytes)
            except OSError as error:
                if error.errno in (errno.ENOSPC, errno.EDQUOT):
                    if is_last:
                        return None
                    make_room(self.folder)
                elif error.errno in (errno.ENOLCK, errno.EOPNOTSUPP, errno.ENOSYS):
                    self._may_lock = False
                    return None
                else:
                    raise
        return None

    def _keep(self, file: _PoolFile) -> None:
        dropped = []
        with self._lock:
            self._files.appendleft(file)
            self._num_bytes += file.size_bytes
            while self._num_bytes > self._max_bytes or len(self._files) > POOL_FILES:
                dropped.append(self._files.pop())
                self._num_bytes -= dropped[-1].size_bytes
        for oldest in dropped:
            oldest.drop()

    def _write_once(self, path: str, parts: Sequence[Buffer], size_bytes: int) -> None:
        fd = os.open(path, os.O_CREAT | os.O_EXCL | os.O_WRONLY | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)
        try:
            _reserve(fd, size_bytes, self.folder)
            _write_all(fd, parts)
        except BaseException:
            os.unlink(path)
            raise
        finally:
            os.close(fd)


class _PoolFile:
    """Made locked for writing. Its own name goes with it, unless it is a forked child that lets its copy go."""

    __slots__ = ("_is_used", "_mapping", "_pid", "fd", "path", "size_bytes")

    def __init__(self, path: str, size_bytes: int) -> None:
        """Raises OSError, leaving nothing."""
        self.path = path
        self.size_bytes = size_bytes
        self._pid = os.getpid()
        self._mapping: mmap.mmap | None = None
        self._is_used = False
        self.fd = -1
        self.fd = os.open(path, os.O_CREAT | os.O_EXCL | os.O_RDWR | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)
        try:
            fcntl.flock(self.fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
            os.posix_fallocate(self.fd, 0, size_bytes)  # a full file system is an error now, not a SIGBUS later
        except BaseException:
            self.drop()
            raise

    def try_lock(self) -> bool | None:
        """True: locked and nobody's. None: somebody may read it still. False: it is not ours any more."""
        if os.fstat(self.fd).st_nlink > 1:
            return None  # without a lock, which its reader would run into
        try:
            fcntl.flock(self.fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            return None
        return os.fstat(self.fd).st_nlink == 1

    def fill(self, parts: Sequence[Buffer]) -> None:
        """Copy `parts` in. The first time they are written: a fresh page that is written whole need not be cleared."""
        if not self._is_used:
            self._is_used = True
            _write_all(self.fd, parts)
            return
        if self._mapping is None:
            mapped[self.path] = self.size_bytes
            self._mapping = mmap.mmap(self.fd, self.size_bytes, flags=mmap.MAP_SHARED | mmap.MAP_POPULATE)
        at = 0
        with memoryview(self._mapping) as target:
            for part in parts:
                view = memoryview(part).cast("B")
                for start in range(0, len(view), COPY_BYTES):
                    piece = view[start : start + COPY_BYTES]
                    target[at : at + len(piece)] = piece
                    at += len(piece)

    def drop(self) -> None:
        """Readers keep what they have mapped, and names that are on their way keep the file. May be called twice."""
        fd, self.fd = self.fd, -1
        self._mapping = None
        if fd < 0:
            return
        mapped.pop(self.path, None)
        if self._pid == os.getpid():
            try:
                os.unlink(self.path)  # not by a function of this module, which goes before its imports do
                # Its pages go now, whoever keeps a mapping of it (`_warm_mappings`), unless somebody has or reads it.
                if os.fstat(fd).st_nlink == 0 and fcntl is not None:
                    fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
                    os.ftruncate(fd, 0)
            except OSError:
                pass
        os.close(fd)

    def __del__(self) -> None:
        if os is not None:  # at the interpreter's end it may have gone; the controller removes the name then
            self.drop()


def make_room(folder: str) -> int:
    """Remove every writer's files that hold nothing for anybody; returns how many. Their writers notice."""
    num_removed = 0
    for name in os.listdir(folder):
        if not name.startswith(".pool-"):
            continue
        path = os.path.join(folder, name)
        try:
            fd = os.open(path, os.O_RDWR | os.O_CLOEXEC | os.O_NOFOLLOW)
        except OSError:
            continue
        try:
            if os.fstat(fd).st_nlink > 1:
                continue
            fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
            if os.fstat(fd).st_nlink == 1:
                os.unlink(path)  # fails where the name left is not this one but that of a value
                os.ftruncate(fd, 0)  # its writer's mapping would keep the pages; it looks at the links before it writes
                num_removed += 1
        except OSError:
            pass
        finally:
            os.close(fd)
    return num_removed


def _unlink(path: str) -> None:
    try:
        os.unlink(path)
    except OSError:
        pass


def _write_all(fd: int, parts: Sequence[Buffer]) -> None:
    for part in parts:
        view = memoryview(part).cast("B")
        while view:
            view = view[os.write(fd, view) :]


def _reserve(fd: int, size_bytes: int, folder: str) -> None:
    try:
        os.posix_fallocate(fd, 0, size_bytes)
    except OSError as error:
        if error.errno not in (errno.ENOSPC, errno.EDQUOT) or not make_room(folder):
            raise
        os.posix_fallocate(fd, 0, size_bytes)


def _size_class(size_bytes: int) -> int:
    """The next of four steps between powers of two: at most a quarter is wasted."""
    step = max(_PAGE_BYTES, 1 << max(0, (size_bytes - 1).bit_length() - 3))
    return -(-size_bytes // step) * step


mapped: dict[str, int] = {}


def mapped_bytes() -> int:
    """Of this process's resident memory: the arena's, which is no user's."""
    return sum(list(mapped.values()))


_arenas: dict[str, Arena] = {}
_arenas_lock = threading.Lock()


def arena_of(folder: str) -> Arena:
    """This process's arena in `folder`."""
    arena = _arenas.get(folder)
    if arena is None:
        with _arenas_lock:
            arena = _arenas.get(folder)
            if arena is None:
                arena = _arenas[folder] = Arena(folder)
    return arena


def _forget_arenas() -> None:
    """In a forked child: the files are its parent's."""
    global _arenas_lock
    _arenas_lock = threading.Lock()
    _arenas.clear()
    mapped.clear()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_forget_arenas)
