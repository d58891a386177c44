"""WeightFile: a model's packed weights as one flat file, written once and mapped by every later process.

Layout: 8 bytes of magic, 8 bytes with the index's length, the index (JSON: entries with kind, n, k, offset,
size_bytes, sample), then the entries in the order a step reads them, each from a page's start. A file appears under its
name only when it is whole and on the disk. A sample is a checksum of three pages of the entry: a region that was lost
is noticed, a flipped bit is not (reading all of a large file would take longer than mapping it).
"""

from __future__ import annotations

import json
import logging
import mmap
import os
import zlib
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

from ...errors import CheckpointChangedError, LoadingError
from ...loading.host_copy import bring, is_worth_bringing
from ...loading.residency import IN_MEMORY_SHARE, resident_share
from ...models.folder_state import FileState, weights_state
from ...models.plan import DecoderPlan
from ..base import WeightsSource
from .library import KernelLibrary
from .packing import PackedTensor, packed_tensors
from .weight_place import MAGIC, drop_outdated, locked, note_source, path_of

_MADV_POPULATE_READ = 22
_ROWS_BYTES = 16 * 2**20  # of float32 rows that are packed at a time

_logger = logging.getLogger("flowserve")


@dataclass(frozen=True, slots=True)
class Entry:
    """Where a tensor lies in the file. kind: a Kind, or None for float32 as they are."""

    kind: int | None
    n: int
    k: int
    offset: int
    size_bytes: int
    sample: int = 0

    @property
    def end(self) -> int:
        return self.offset + _pages(self.size_bytes)


class WeightFile:
    """A mapped file. `address(name)` stays valid as long as the object lives. path: None where they are in no file.

    parts: the entries in the order in which a step needs them: the embedding, each layer, the rest.  is_there: False
    where the bytes are to be brought into memory by who computes first (`WeightArrival`), and are not checked yet.
    read_s: what bringing them there took, 0 where nothing was or is yet.
    """

    def __init__(self, file: int, path: Path | None = None, *, is_there: bool = True, read_s: float = 0.0) -> None:
        """Raises ValueError, KeyError or TypeError for a file that is no whole one."""
        self._pages = mmap.mmap(file, 0, mmap.MAP_SHARED, mmap.PROT_READ)
        with suppress(OSError):  # a kernel without them
            # Pages of 2 MiB where the file system has them (ext4 from Linux 6.16, XFS): mapping 600 MB takes 0.3 ms
            # then, not 40. Whether steps read them faster depends more on where in memory they lie.
            self._pages.madvise(mmap.MADV_HUGEPAGE)
        self._base = int(np.frombuffer(self._pages, dtype=np.uint8).ctypes.data)
        self.size_bytes = len(self._pages)
        self.path = path
        self._state = FileState.of(os.fstat(file))
        if self._pages[:8] != MAGIC:
            raise ValueError("no packed weights")
        index = json.loads(self._pages[16 : 16 + int.from_bytes(self._pages[8:16], "little")])
        self.entries = {name: Entry(*fields) for name, fields in index["entries"].items()}
        self.parts = _parts(self.entries)
        if self.size_bytes != max(entry.end for entry in self.entries.values()):
            raise ValueError("packed weights are cut off")
        self.is_there, self.read_s = is_there, read_s
        if is_there and not all(self.is_sound(part) for part in range(len(self.parts))):
            raise ValueError("packed weights are damaged")

    @property
    def is_replaced(self) -> bool:
        """Its bytes are not all there, and another file, or none, has its place: it was damaged, or is outdated."""
        return not self.is_there and self.path is not None and weights_state(self.path) != self._state

    def is_sound(self, part: int) -> bool:
        """Whether the samples of a part, which is in memory, are what was written."""
        return all(entry.sample == _sample_checksum(self._pages, entry) for entry in self.parts[part])

    def settle(self, anyhow: bool = False) -> None:
        """Note that all is there, if it is by now (another process has brought it), or `anyhow`: what is not is waited
        for page by page. Raises LoadingError where it is damaged."""
        if self.is_there or not (anyhow or (self.path and resident_share(self.path) >= IN_MEMORY_SHARE)):
            return
        for part in range(len(self.parts)):
            self.check(part)
        self.is_there = True

    def check(self, part: int) -> None:
        """Raises LoadingError where a part, which is in memory, is damaged; nobody finds the file again then."""
        if not self.is_sound(part):
            self.discard()
            raise LoadingError(f"{self.path} is damaged; it is made anew at the next start")

    def discard(self) -> None:
        """It is damaged: nobody is to find it again. Who has mapped it keeps it."""
        if self.path is not None:
            self.path.unlink(missing_ok=True)

    def address(self, name: str) -> int | None:
        """Of an entry's first byte; None when the model has no such tensor."""
        entry = self.entries.get(name)
        return None if entry is None else self._base + entry.offset

    def park(self) -> None:
        """Leave the pages to the page cache: they are this process's no more until somebody reads them."""
        self._pages.madvise(mmap.MADV_DONTNEED)

    def unpark(self) -> None:
        """Have all pages at hand, so that nobody waits for them later. Reads what the page cache has given up."""
        with suppress(OSError):  # a kernel before 5.14: they come when they are read
            self._pages.madvise(_MADV_POPULATE_READ)

    def forget(self) -> None:
        """Let the page cache drop the pages that no other process maps."""
        self.park()
        if self.path is None:
            return
        with suppress(OSError):  # it was replaced or removed
            file = os.open(self.path, os.O_RDONLY | os.O_CLOEXEC)
            try:
                os.posix_fadvise(file, 0, 0, os.POSIX_FADV_DONTNEED)
            finally:
                os.close(file)


def packed_weights(
    plan: DecoderPlan,
    dtype: torch.dtype,
    quantization: str | None,
    library: KernelLibrary,
    is_direct: bool = False,
    is_ahead: bool = False,
) -> WeightFile:
    """The model's packed weights, from the cache or packed now. is_direct, is_ahead: see EngineConfig.direct_load and
    overlap_load.

    Where the cache folder cannot hold them they are packed into memory of this process and its children, with a
    warning. Raises CheckpointError for a tensor that holds NaN or infinity.
    """
    tensors = list(packed_tensors(plan, dtype, quantization))
    path = path_of(plan, tensors, library)
    folder = path.parent
    try:
        if (found := _open_whole(path, is_direct, is_ahead)) is not None:
            return found
        folder.mkdir(parents=True, exist_ok=True)
        with locked(folder / ".lock"):
            if (found := _open_whole(path, is_direct, is_ahead)) is not None:  # packed by another process meanwhile
                return found
            note_source(path, plan)
            _logger.info("packing the weights into %s (once on this machine)", path)
            return _pack_into_cache(path, plan, tensors, library)
    except OSError as error:
        _logger.warning("packed weights cannot be kept in %s (%s); packing into memory", folder, error)
    memory = os.memfd_create("flowserve-weights", os.MFD_CLOEXEC)
    try:
        _write(memory, tensors, library)
        _check_unchanged(plan)
        return WeightFile(memory)
    finally:
        os.close(memory)


def packed_source(
    plan: DecoderPlan, dtype: torch.dtype, quantization: str | None, library: KernelLibrary
) -> WeightsSource:
    """Where `packed_weights` takes them from; "host memory" where most of the file is there."""
    path = path_of(plan, list(packed_tensors(plan, dtype, quantization)), library)
    if not path.is_file():
        return WeightsSource("conversion", "the cache folder has no converted weights of this checkpoint")
    share = resident_share(path)
    kind = "host memory" if share >= IN_MEMORY_SHARE else "file"
    return WeightsSource(kind, f"{share:.0%} of the converted weights were in memory")


def _pack_into_cache(path: Path, plan: DecoderPlan, tensors: list[PackedTensor], library: KernelLibrary) -> WeightFile:
    partial = path.with_suffix(f".partial-{os.getpid()}")
    partial.unlink(missing_ok=True)  # of an earlier process with this id; the lock is ours
    drop_outdated(path)
    file = os.open(partial, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
    try:
        _write(file, tensors, library)
        _check_unchanged(plan)
        os.fsync(file)
        # What was written lies in small pages of the page cache; read anew, by a mapping, it comes in large ones.
        os.posix_fadvise(file, 0, 0, os.POSIX_FADV_DONTNEED)
        partial.rename(path)
        return WeightFile(file, path)
    except BaseException:
        partial.unlink(missing_ok=True)
        raise
    finally:
        os.close(file)


def _check_unchanged(plan: DecoderPlan) -> None:
    """Of a file that was written into meanwhile, some was read before and some after."""
    for path, state in plan.files().items():
        if weights_state(path) != state:
            raise CheckpointChangedError(f"{path} changed while its weights were converted")


def _write(file: int, tensors: list[PackedTensor], library: KernelLibrary) -> None:
    entries, size = _lay_out(tensors, library)
    os.posix_fallocate(file, 0, size)  # a full disk is noticed now, not as a signal when the pages are touched
    for tensor in tensors:
        offset = entries[tensor.name].offset
        for packed in _packed_pieces(tensor, library):
            offset += os.pwrite(file, packed, offset)
    with mmap.mmap(file, 0, mmap.MAP_SHARED, mmap.PROT_READ) as pages:
        fields = {name: _fields(entry, _sample_checksum(pages, entry)) for name, entry in entries.items()}
    index = json.dumps({"entries": fields}).encode()
    os.pwrite(file, MAGIC + len(index).to_bytes(8, "little") + index, 0)


def _sample_checksum(pages: mmap.mmap, entry: Entry) -> int:
    """CRC-32 of the first, the middle and the last page of an entry. Read from the mapping: `pread` would bring them
    into the page cache as small pages."""
    checksum = 0
    for place in (0, entry.size_bytes // 2, max(0, entry.size_bytes - mmap.PAGESIZE)):
        start = entry.offset + place
        checksum = zlib.crc32(pages[start : start + min(mmap.PAGESIZE, entry.size_bytes - place)], checksum)
    return checksum


def _parts(entries: dict[str, Entry]) -> list[list[Entry]]:
    """By what a step needs one after the other. Raises KeyError where the embedding or a layer is missing."""
    layers = {int(name.split(".")[1]) for name in entries if name.startswith("layers.")}
    parts: list[list[Entry]] = [[] for _ in range(len(layers) + 2)]
    for name, entry in entries.items():
        if name.startswith("layers."):
            parts[int(name.split(".")[1]) + 1].append(entry)
        else:
            parts[0 if name == "embedding" else -1].append(entry)
    if not all(parts):
        raise KeyError("a part has no entries")
    return parts


def _packed_pieces(tensor: PackedTensor, library: KernelLibrary) -> Iterator[memoryview]:
    """The entry's bytes, some panels at a time, so that packing needs little memory beside the result."""
    step = tensor.n if tensor.kind is None else max(1, _ROWS_BYTES // (tensor.k * 4 * 64)) * 64
    for start in range(0, tensor.n, step):
        end = min(start + step, tensor.n)
        rows = tensor.rows(start, end).contiguous()
        if tensor.kind is None:
            if not bool(rows.isfinite().all()):
                raise tensor.not_finite(int((~rows.isfinite()).nonzero()[0]))
            yield _bytes_of(rows)
            continue
        packed = torch.empty(library.matrix_bytes(tensor.kind, end - start, tensor.k), dtype=torch.uint8)
        bad = library.c.fs_pack(tensor.kind, rows.data_ptr(), end - start, tensor.k, packed.data_ptr())
        if bad >= 0:
            raise tensor.not_finite(start + bad)
        yield _bytes_of(packed)


def _bytes_of(tensor: torch.Tensor) -> memoryview:
    array: Any = tensor.numpy()
    return memoryview(array).cast("B")


def _lay_out(tensors: list[PackedTensor], library: KernelLibrary) -> tuple[dict[str, Entry], int]:
    """Entries behind an index of unknown length: room for it is taken generously, the rest is exact."""
    offset = _pages(4096 + 256 * len(tensors))
    entries = {}
    for tensor in tensors:
        size = tensor.n * 4 if tensor.kind is None else library.matrix_bytes(tensor.kind, tensor.n, tensor.k)
        entries[tensor.name] = Entry(tensor.kind, tensor.n, tensor.k, offset, size)
        offset += _pages(size)
    return entries, offset


def _pages(size: int) -> int:
    return -(-size // mmap.PAGESIZE) * mmap.PAGESIZE


def _fields(entry: Entry, sample: int) -> list[int | None]:
    kind = None if entry.kind is None else int(entry.kind)
    return [kind, entry.n, entry.k, entry.offset, entry.size_bytes, sample]


def _open_whole(path: Path, is_direct: bool, is_ahead: bool) -> WeightFile | None:
    """The file if it is there, as long as its index says, and its samples right; a damaged one is made anew."""
    try:
        file = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    except FileNotFoundError:
        return None
    is_left = is_ahead and not is_direct and is_worth_bringing({path: os.fstat(file).st_size})
    read_s = 0.0
    if not is_left:
        file, read_s = _in_memory(file, path, is_direct)
    try:
        return WeightFile(file, path, is_there=not is_left, read_s=read_s)
    except (ValueError, KeyError, TypeError):  # of an empty file, too
        pass
    finally:
        os.close(file)
    _logger.warning("the packed weights in %s are damaged; packing anew", path)
    return None


def _in_memory(file: int, path: Path, is_direct: bool) -> tuple[int, float]:
    """`file`, its bytes now in memory, or a copy of it there: page by page the disk would be waited for each time. And
    what that took, as `bring` says."""
    try:
        found, read_s = bring(path, file, is_direct)
    except LoadingError as error:
        _logger.warning("%s: read page by page: %s", path, error)
        return file, 0.0
    if found != file:
        os.close(file)
    return found, read_s
