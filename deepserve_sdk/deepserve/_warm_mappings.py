"""Mappings of writers' files that this process keeps, to copy `bytes`, texts and plain objects out of them.

Of a value that is only copied out, faulting in a fresh mapping and removing it costs twice the copy. A kept mapping has
its pages. It holds no lock: who copies holds one on a descriptor of its own, for as long as it copies, and comes by a
name of the file, so nobody writes or truncates meanwhile. The mapping keeps the file's number from being given again.
"""

from __future__ import annotations

import mmap
import os
import threading

from deepserve import _arena

KEPT_BYTES = 64 << 20
KEPT_FILES = 8


class WarmMappings:
    """Thread-safe. Files that go are truncated, so that what is kept here holds no memory of its own."""

    def __init__(self) -> None:
        self._lock = threading.RLock()  # a finaliser may read a value, at any time
        self._kept: dict[tuple[int, int], mmap.mmap] = {}
        """By device and number of the file. Last used last."""

    @property
    def num_bytes(self) -> int:
        return sum(map(len, self._kept.values()))

    def of(self, fd: int, size_bytes: int) -> mmap.mmap | None:
        """A mapping of at least this size of the file behind `fd`, which has our lock.

        None where none is kept: the file is too large, this value was its last, or nothing more can be mapped.
        """
        stat = os.fstat(fd)
        key = (stat.st_dev, stat.st_ino)
        with self._lock:
            kept, touched_bytes = self._kept.get(key), _arena.mapped.get(_label(key), 0)
            self._drop(key)
            if not stat.st_nlink:
                return None
            if kept is None or len(kept) < size_bytes:
                if not size_bytes <= stat.st_size <= KEPT_BYTES:
                    return None
                try:
                    kept = mmap.mmap(fd, stat.st_size, flags=mmap.MAP_SHARED, prot=mmap.PROT_READ)
                except OSError:
                    return None
            self._kept[key] = kept
            _arena.mapped[_label(key)] = max(size_bytes, touched_bytes)
            self._drop_others()
        return kept

    def _drop_others(self) -> None:
        """Those of files that are gone, and the longest unused above the bounds."""
        for key, mapping in list(self._kept.items()):
            if _is_gone(mapping):
                self._drop(key)
        while len(self._kept) > KEPT_FILES or self.num_bytes > KEPT_BYTES:
            self._drop(next(iter(self._kept)))

    def _drop(self, key: tuple[int, int]) -> None:
        """Whoever copies from it just now keeps it until then."""
        self._kept.pop(key, None)
        _arena.mapped.pop(_label(key), None)


def _is_gone(mapping: mmap.mmap) -> bool:
    try:
        return mapping.size() < len(mapping)
    except OSError:  # the user closed its descriptor
        return True


def _label(key: tuple[int, int]) -> str:
    return f"{key[0]}:{key[1]}"


warm_mappings = WarmMappings()


def _forget_mappings() -> None:
    """In a forked child, which may have been forked while another thread had the lock."""
    global warm_mappings
    warm_mappings = WarmMappings()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_forget_mappings)
