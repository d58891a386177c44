"""Shared-memory segments on their way through: removed, doubled for a second reader, read for the HTTP port."""

from __future__ import annotations

import contextlib
import errno
import fcntl
import os
import re

import msgspec

from deepserve.protocol.messages import Value
from deepserve_controller.service.refs import Refs
from deepserve_controller.service.tokens import new_name

_PLAIN_NAME = re.compile(r"[A-Za-z0-9_-][A-Za-z0-9._-]{0,99}")


NUM_NOTED = 256
"""So many names of one link are noted before those that are gone are sorted out."""


class Segments:
    """Writers name them: `v-PID-…`, `r-PID-…` for what `put` stored, `.pool-PID-…` for files to be used again."""

    def __init__(self, folder: str) -> None:
        self.folder = folder
        self._delivered: dict[str, list[str]] = {}
        """The segments that each link was told to read (and unlink)."""
        self._announced: dict[str, list[str]] = {}
        """The segments that each link has told of: others that its process wrote are nobody's when it ends."""
        self._pids: dict[int, int] = {}
        """How many links a process has: one that lost its link may have the next one already."""
        self.refs = Refs(self.remove)

    def remove(self, name: str) -> None:
        """A name that is no plain file name came from a confused peer and is left alone."""
        if name and _PLAIN_NAME.fullmatch(name):
            with contextlib.suppress(OSError):
                os.unlink(os.path.join(self.folder, name))

    def path(self, name: str) -> str | None:
        """None for what is no plain file name."""
        return os.path.join(self.folder, name) if _PLAIN_NAME.fullmatch(name) else None

    def read(self, name: str, offset: int, size_bytes: int) -> bytes:
        """A piece of a segment. Raises OSError where it is gone or not so long."""
        if (path := self.path(name)) is None:
            raise FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT))
        with open(path, "rb", buffering=0) as file:
            content = os.pread(file.fileno(), size_bytes, offset)
        if len(content) != size_bytes:
            raise OSError(errno.ENODATA, os.strerror(errno.ENODATA))
        return content

    def why_not_stored(self, size_bytes: int, error: OSError) -> str:
        """For whoever sent the value."""
        if error.errno not in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG):
            return f"the value could not be stored: {error.strerror}"
        disk = os.statvfs(self.folder)
        free_bytes, total_bytes = disk.f_bavail * disk.f_frsize, disk.f_blocks * disk.f_frsize
        return (
            f"the value has {size_bytes:,} bytes; of the {total_bytes:,} bytes of shared memory on the controller's "
            f"host {free_bytes:,} are free"
        )

    def link_opened(self, pid: int) -> None:
        self._pids[pid] = self._pids.get(pid, 0) + 1

    def announced(self, link_id: str, value: Value) -> None:
        """A process told of what it wrote; from here the name is known where it is needed."""
        if value.segment:
            self._note(self._announced, link_id, value.segment)

    def delivered(self, link_id: str, name: str) -> None:
        """`link_id` was told to read a segment of its own: what it has not read when it ends is removed."""
        self._note(self._delivered, link_id, name)

    def link_closed(self, link_id: str, pid: int) -> None:
        """Removes what the process was to read, what it wrote and told nobody of, and what it kept to write into."""
        for name in self._delivered.pop(link_id, ()):
            self.remove(name)
        announced = set(self._announced.pop(link_id, ()))
        num_links = self._pids.pop(pid, 1) - 1
        if num_links:
            self._pids[pid] = num_links
        if not pid or num_links:
            return
        for name in os.listdir(self.folder):
            if name.startswith((f".pool-{pid}-", f"v-{pid}-", f"r-{pid}-")) and name not in announced:
                path = os.path.join(self.folder, name)
                with contextlib.suppress(OSError):  # somebody else removed it just now; the others go all the same
                    if name.startswith("."):
                        _remove_for_good(path)
                    else:
                        os.unlink(path)

    def _note(self, notes: dict[str, list[str]], link_id: str, name: str) -> None:
        names = notes.setdefault(link_id, [])
        names.append(name)
        if len(names) % NUM_NOTED == 0:
            names[:] = [name for name in names if os.path.exists(os.path.join(self.folder, name))]

    def double(self, value: Value) -> Value:
        """The same bytes under another name, for a reader that unlinks what it has read."""
        if not value.segment or not _PLAIN_NAME.fullmatch(value.segment):
            return value
        name = f"c-{os.getpid()}-{new_name(8)}"
        with contextlib.suppress(OSError):
            os.link(os.path.join(self.folder, value.segment), os.path.join(self.folder, name))
        return msgspec.structs.replace(value, segment=name)

    def take(self, value: Value) -> bytes:
        """The bytes of a result for a caller outside this machine's processes; the segment is removed."""
        if not value.segment or not _PLAIN_NAME.fullmatch(value.segment):
            return b""
        try:
            with open(os.path.join(self.folder, value.segment), "rb") as file:
                return file.read(value.size_bytes)
        except OSError:
            return b""
        finally:
            self.remove(value.segment)


def _remove_for_good(path: str) -> None:
    """A writer's own name, and the pages unless somebody reads them still: readers keep mappings for the next value.

    Raises OSError.
    """
    try:
        fd = os.open(path, os.O_RDWR | os.O_CLOEXEC | os.O_NOFOLLOW)
    except OSError:  # no descriptor left: the name goes all the same
        return os.unlink(path)
    try:
        os.unlink(path)
        if os.fstat(fd).st_nlink == 0:
            fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)  # fails where a reader has its lock
            os.ftruncate(fd, 0)
    finally:
        os.close(fd)
