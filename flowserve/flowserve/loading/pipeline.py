"""ChunkedLoad: a file's bytes through the tiers of memory, chunk by chunk (ServerlessLLM, arXiv 2401.14351).

Readers take chunks in the file's order, whoever is free the next one, so that the beginning is there first. A chunk
goes on to the next tier the moment it is read: nobody waits for a tier to be full. Where the destination is memory that
a read can fill, that is its end; else it passes through a pool of host buffers, out of which one thread copies it.
"""

from __future__ import annotations

import mmap
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from queue import SimpleQueue
from typing import Protocol

from ..errors import LoadingError
from .chunks import Chunk, Prefix, chunks_of

CHUNK_BYTES = 16 * 2**20
NUM_READERS = 4
POOL_CHUNKS = 8


class Source(Protocol):
    """The first tier. is_direct: it passes the page cache by."""

    path: Path
    size_bytes: int

    @property
    def is_direct(self) -> bool: ...

    def read_into(self, offset: int, buffer: memoryview) -> None:
        """Fill `buffer` from an offset that begins a page; in several threads at once. Raises LoadingError."""


class Destination(Protocol):
    """The last tier."""

    def room(self, offset: int, size: int) -> memoryview | None:
        """Where a read may put these bytes of the file, from a page's start; None: they go through the host pool."""

    def put(self, offset: int, data: memoryview) -> None:
        """Take bytes out of the host pool. Their buffer is used again when this returns."""


class HostPool(Protocol):
    """Buffers of one size, each from a page's start. A device's are pinned, so that its copies need no further one."""

    def buffers(self, number: int, size: int) -> list[memoryview]: ...


class PlainPool:
    """Anonymous memory."""

    def buffers(self, number: int, size: int) -> list[memoryview]:
        return [memoryview(mmap.mmap(-1, size)) for _ in range(number)]


@dataclass(frozen=True, slots=True)
class LoadReport:
    """is_direct: the page cache was passed by."""

    size_bytes: int
    seconds: float
    is_direct: bool


class ChunkedLoad:
    """One load, begun when it is made. Its threads end with it, by itself or by `close`."""

    def __init__(
        self,
        file: Source,
        destination: Destination,
        *,
        num_readers: int = NUM_READERS,
        chunk_bytes: int = CHUNK_BYTES,
        chunks: Sequence[Chunk] | None = None,
        pool: HostPool | None = None,
    ) -> None:
        """chunk_bytes: whole pages. chunks: how the file is cut where its source has a say, of `chunk_bytes` at most.
        pool: of the host's buffers, where the destination needs them."""
        self._file = file
        self._destination = destination
        self._chunks = chunks_of(file.size_bytes, chunk_bytes) if chunks is None else chunks
        self._next = iter(self._chunks)
        self._free: SimpleQueue[memoryview | None] = SimpleQueue()
        self._filled: SimpleQueue[tuple[Chunk, memoryview] | None] = SimpleQueue()
        self._pool, self._chunk_bytes = pool or PlainPool(), chunk_bytes
        self._has_pool = False
        self._changed = threading.Condition()
        # All below is guarded by `_changed`.
        self._prefix = Prefix()
        self._error: BaseException | None = None
        self._is_closed = False
        self._num_readers = min(num_readers, len(self._chunks))
        if not self._chunks:
            self._filled.put(None)
        self._began_s = self._ended_s = time.perf_counter()
        works: list[Callable[[], None]] = [self._read_all] * self._num_readers + [self._copy_all]
        self._threads = [threading.Thread(target=self._run, args=(work,), daemon=True) for work in works]
        for thread in self._threads:
            thread.start()

    def ready_through(self, offset: int) -> None:
        """Wait until all bytes before `offset` are at the destination. Raises LoadingError where they will not be."""
        with self._changed:
            self._changed.wait_for(lambda: self._error or self._is_closed or self._prefix.end >= offset)
            if self._prefix.end >= offset:
                return
            if self._error is None:
                raise LoadingError(f"{self._file.path}: loading was given up")
            if isinstance(self._error, LoadingError):
                raise self._error
            raise LoadingError(f"{self._file.path}: {self._error}") from self._error

    def wait(self) -> LoadReport:
        """Until all is there, and no thread is left. Raises LoadingError."""
        try:
            self.ready_through(self._file.size_bytes)
        finally:
            self.close()
        return LoadReport(self._file.size_bytes, self._ended_s - self._began_s, self._file.is_direct)

    def close(self) -> None:
        """Give up what is not read yet, and wait for the threads. The file stays open. May be called again."""
        with self._changed:
            self._is_closed = True
            self._changed.notify_all()
        for _ in self._threads:
            self._free.put(None)
        for thread in self._threads:
            thread.join()

    # --- in the threads ----------------------------------------------------------------------------------

    def _run(self, work: Callable[[], None]) -> None:
        try:
            work()
        except BaseException as error:
            with self._changed:
                self._error = self._error or error
                self._changed.notify_all()
            for _ in self._threads:
                self._free.put(None)
            self._filled.put(None)

    def _read_all(self) -> None:
        while (chunk := self._take()) is not None:
            room = self._destination.room(chunk.offset, chunk.size)
            if room is not None:
                self._file.read_into(chunk.offset, room)
                self._note(chunk)
                continue
            buffer = self._buffer()
            if buffer is None:
                break
            self._file.read_into(chunk.offset, buffer[: chunk.size])
            self._filled.put((chunk, buffer))
        with self._changed:
            self._num_readers -= 1
            is_last = self._num_readers == 0
        if is_last:
            self._filled.put(None)

    def _take(self) -> Chunk | None:
        with self._changed:
            return None if self._is_closed or self._error else next(self._next, None)

    def _buffer(self) -> memoryview | None:
        with self._changed:
            if not self._has_pool:
                self._has_pool = True
                for buffer in self._pool.buffers(min(POOL_CHUNKS, len(self._chunks)), self._chunk_bytes):
                    self._free.put(buffer)
        return self._free.get()

    def _copy_all(self) -> None:
        while (filled := self._filled.get()) is not None:
            chunk, buffer = filled
            self._destination.put(chunk.offset, buffer[: chunk.size])
            self._free.put(buffer)
            self._note(chunk)

    def _note(self, chunk: Chunk) -> None:
        with self._changed:
            self._prefix.note(chunk)
            self._ended_s = time.perf_counter()
            self._changed.notify_all()
