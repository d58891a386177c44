"""The page on which this pod notes what has begun (`deepserve.protocol.begun_page`), in shared memory."""

from __future__ import annotations

import mmap
import os
import threading

from deepserve.protocol import begun_page
from deepserve.protocol.begun_page import NUM_RECORDS, PAGE_BYTES, RECORD

WORDS = RECORD.size // 8


class Note:
    """One chunk's record. `counts[at]` is how many of its inputs have begun: written before each of them."""

    __slots__ = ("at", "counts")

    def __init__(self, counts: memoryview, at: int) -> None:
        self.counts = counts
        self.at = at


NO_NOTE = Note(memoryview(bytearray(8)).cast("Q"), 0)
"""Of a chunk that finds no record free: its controller is then told less."""


class BegunPage:
    def __init__(self, counts: memoryview, keys: memoryview) -> None:
        self._counts = counts
        self._keys = keys
        self._free = list(range(NUM_RECORDS))[::-1]
        self._lock = threading.Lock()

    @classmethod
    def make(cls, folder: str, pod_id: str) -> BegunPage | None:
        """None where there is no folder, or no room in it."""
        if not folder:
            return None
        path = os.path.join(folder, begun_page.file_name(pod_id))
        try:
            fd = os.open(path, os.O_CREAT | os.O_EXCL | os.O_RDWR | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)
        except OSError:
            return None
        try:
            os.posix_fallocate(fd, 0, PAGE_BYTES)
            view = memoryview(mmap.mmap(fd, PAGE_BYTES))
        except OSError:
            os.unlink(path)
            return None
        finally:
            os.close(fd)
        return cls(view.cast("Q"), view)

    def open(self, task_id: str, attempt: int) -> Note:
        key = begun_page.key_of(task_id, attempt)
        with self._lock:
            if not self._free or not key:
                return NO_NOTE
            record = self._free.pop()
        at = record * WORDS
        self._counts[at] = 0
        self._keys[record * RECORD.size + 8 : (record + 1) * RECORD.size] = key.ljust(RECORD.size - 8, b"\0")
        return Note(self._counts, at)

    def close(self, note: Note) -> None:
        if note is NO_NOTE:
            return
        record = note.at // WORDS
        self._keys[record * RECORD.size + 8 : (record + 1) * RECORD.size] = bytes(RECORD.size - 8)
        with self._lock:
            self._free.append(record)
