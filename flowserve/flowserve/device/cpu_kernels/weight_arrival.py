"""WeightArrival: a flat file's way into memory, part by part, while steps run that wait for one after the other."""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import Protocol

from ...errors import LoadingError
from ...loading.host_copy import CACHED_CHUNK_BYTES
from ...loading.mapped_file import MappedFile
from ...loading.pipeline import ChunkedLoad, Destination, Source
from .weight_file import WeightFile


class Tier(Source, Protocol):
    def close(self) -> None: ...


class WeightArrival:
    """Begun when it is made, in the process that computes. Its threads end with it, by themselves or by `close`.

    error: why the rest of the parts will not come.
    """

    def __init__(self, file: WeightFile, note: Callable[[int], None], source: Tier, destination: Destination) -> None:
        """note: is told how many parts are there and sound, in order; -1 where no more will be."""
        self.error: LoadingError | None = None
        self._file = file
        self._note = note
        self._source = source
        self._load = ChunkedLoad(source, destination, chunk_bytes=CACHED_CHUNK_BYTES)
        self._thread = threading.Thread(target=self._follow, name="flowserve-arrival", daemon=True)
        self._thread.start()

    @classmethod
    def of_cache(cls, file: WeightFile, note: Callable[[int], None]) -> WeightArrival:
        """Into the page cache, from where the file is mapped. Raises LoadingError where it is gone."""
        assert file.path is not None
        cached = MappedFile(file.path)
        if cached.size_bytes != file.size_bytes:
            cached.close()
            raise LoadingError(f"{file.path} is another file than the one that was opened")
        return cls(file, note, cached, cached)

    def close(self) -> None:
        """Give up what is not read yet, and wait for the threads. May be called again."""
        self._load.close()
        self._thread.join()

    def _follow(self) -> None:
        try:
            for part, entries in enumerate(self._file.parts):
                self._load.ready_through(max(entry.end for entry in entries))
                self._file.check(part)
                self._note(part + 1)
            self._file.read_s = self._load.wait().seconds
            self._file.is_there = True
        except Exception as error:  # whatever it is: steps wait for the parts
            self.error = error if isinstance(error, LoadingError) else LoadingError(f"{self._file.path}: {error}")
            self._note(-1)
        finally:
            self._load.close()
            self._source.close()
