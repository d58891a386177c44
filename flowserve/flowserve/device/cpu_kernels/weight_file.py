"""WeightFile: a model's packed weights as one flat file, written once and mapped by every later process.

Layout: 8 bytes of magic, 8 bytes with the index's length, the index (JSON: entries with kind, n, k, offset,
size_bytes), then the entries, each from a page's start. A file appears under its name only when it is whole and on
the disk. The index holds a checksum of a sample, three pages of each entry: a region that was lost is noticed, a
flipped bit is not (reading all of a large file would take longer than mapping it).
"""

from __future__ import annotations

import fcntl
import hashlib
import json
import logging
import mmap
import os
import shutil
import zlib
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

from ...cache_folder import cache_folder
from ...errors import LoadingError
from ...loading.host_copy import bring
from ...loading.residency import IN_MEMORY_SHARE, resident_share
from ...models.plan import DecoderPlan
from .library import KernelLibrary
from .packing import PackedTensor, packed_tensors

_MAGIC = b"FLOWSRV4"
_SOURCE = "source"  # names the model folder of a place in the cache
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


class WeightFile:
    """A mapped file. `address(name)` stays valid as long as the object lives. path: None where they are in no file."""

    def __init__(self, file: int, path: Path | None = None) -> None:
        """Raises ValueError, KeyError or TypeError for a file that is no whole one."""
        self._pages = mmap.mmap(file, 0, mmap.MAP_SHARED, mmap.PROT_READ)
        with suppress(OSError):  # a kernel without them
            # Pages of 2 MiB where the file system has them (ext4 from Linux 6.16, XFS): mapping 600 MB takes 0.3 ms
            # then, not 40. Whether steps read them faster depends more on where in memory they lie.
            self._pages.madvise(mmap.MADV_HUGEPAGE)
        self._base = int(np.frombuffer(self._pages, dtype=np.uint8).ctypes.data)
        self.size_bytes = len(self._pages)
        self.path = path
        if self._pages[:8] != _MAGIC:
            raise ValueError("no packed weights")
        index = json.loads(self._pages[16 : 16 + int.from_bytes(self._pages[8:16], "little")])
        self.entries = {name: Entry(*fields) for name, fields in index["entries"].items()}
        end = max(entry.offset + _pages(entry.size_bytes) for entry in self.entries.values())
        if self.size_bytes != end or index["sample"] != _sample_checksum(self._pages, self.entries.values()):
            raise ValueError("packed weights are cut off or damaged")

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
) -> WeightFile:
    """The model's packed weights, from the cache or packed now. is_direct: see EngineConfig.direct_load.

    Where the cache folder cannot hold them they are packed into memory of this process and its children, with a
    warning. Raises CheckpointError for a tensor that holds NaN or infinity.
    """
    tensors = list(packed_tensors(plan, dtype, quantization))
    path = _path_of(plan, tensors, library)
    folder = path.parent
    try:
        if (found := _open_whole(path, is_direct)) is not None:
            return found
        folder.mkdir(parents=True, exist_ok=True)
        with _locked(folder / ".lock"):
            if (found := _open_whole(path, is_direct)) is not None:  # packed by another process meanwhile
                return found
            (folder / _SOURCE).write_text(str(_folder_of(plan)))
            return _pack_into_cache(path, tensors, library)
    except OSError as error:
        _logger.warning("packed weights cannot be kept in %s (%s); packing into memory", folder, error)
    memory = os.memfd_create("flowserve-weights", os.MFD_CLOEXEC)
    try:
        _write(memory, tensors, library)
        return WeightFile(memory)
    finally:
        os.close(memory)


def packed_source(plan: DecoderPlan, dtype: torch.dtype, quantization: str | None, library: KernelLibrary) -> str:
    """Where `packed_weights` takes them from: "conversion", "file", or "host memory" (most of the file is there)."""
    path = _path_of(plan, list(packed_tensors(plan, dtype, quantization)), library)
    if not path.is_file():
        return "conversion"
    return "host memory" if resident_share(path) >= IN_MEMORY_SHARE else "file"


def _path_of(plan: DecoderPlan, tensors: list[PackedTensor], library: KernelLibrary) -> Path:
    return cache_folder() / "weights" / _place_of(plan) / f"{_fingerprint(plan, tensors, library)}.flat"


def _pack_into_cache(path: Path, tensors: list[PackedTensor], library: KernelLibrary) -> WeightFile:
    partial = path.with_suffix(f".partial-{os.getpid()}")
    partial.unlink(missing_ok=True)  # of an earlier process with this id; the lock is ours
    _drop_older(path)
    _drop_orphans(path.parent.parent)
    file = os.open(partial, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
    try:
        _write(file, tensors, library)
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


def _write(file: int, tensors: list[PackedTensor], library: KernelLibrary) -> None:
    entries, size = _lay_out(tensors, library)
    os.posix_fallocate(file, 0, size)  # a full disk is noticed now, not as a signal when the pages are touched
    for tensor in tensors:
        offset = entries[tensor.name].offset
        for packed in _packed_pieces(tensor, library):
            offset += os.pwrite(file, packed, offset)
    fields = {name: list(_fields(entry)) for name, entry in entries.items()}
    with mmap.mmap(file, 0, mmap.MAP_SHARED, mmap.PROT_READ) as pages:
        index = json.dumps({"entries": fields, "sample": _sample_checksum(pages, entries.values())}).encode()
    os.pwrite(file, _MAGIC + len(index).to_bytes(8, "little") + index, 0)


def _sample_checksum(pages: mmap.mmap, entries: Iterable[Entry]) -> int:
    """CRC-32 of the first, the middle and the last page of each entry. Read from the mapping: `pread` would bring them
    into the page cache as small pages."""
    checksum = 0
    for entry in entries:
        for place in (0, entry.size_bytes // 2, max(0, entry.size_bytes - mmap.PAGESIZE)):
            start = entry.offset + place
            checksum = zlib.crc32(pages[start : start + min(mmap.PAGESIZE, entry.size_bytes - place)], checksum)
    return checksum


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


def _fields(entry: Entry) -> tuple[int | None, int, int, int, int]:
    kind = None if entry.kind is None else int(entry.kind)
    return kind, entry.n, entry.k, entry.offset, entry.size_bytes


def _open_whole(path: Path, is_direct: bool) -> WeightFile | None:
    """The file if it is there, as long as its index says, and its sample right; a damaged one is made anew."""
    try:
        file = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    except FileNotFoundError:
        return None
    file = _in_memory(file, path, is_direct)
    try:
        return WeightFile(file, path)
    except (ValueError, KeyError, TypeError):  # of an empty file, too
        pass
    finally:
        os.close(file)
    _logger.warning("the packed weights in %s are damaged; packing anew", path)
    return None


def _in_memory(file: int, path: Path, is_direct: bool) -> int:
    """`file`, its bytes now in memory, or a copy of it there: page by page the disk would be waited for each time."""
    try:
        found = bring(path, file, is_direct)
    except LoadingError as error:
        _logger.warning("%s: read page by page: %s", path, error)
        return file
    if found != file:
        os.close(file)
    return found


@contextmanager
def _locked(path: Path) -> Iterator[None]:
    file = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield
    finally:
        os.close(file)


def _place_of(plan: DecoderPlan) -> str:
    """One folder for each model folder, readable by its owner."""
    folder = _folder_of(plan)
    return f"{folder.name}-{hashlib.sha256(str(folder).encode()).hexdigest()[:12]}"


def _folder_of(plan: DecoderPlan) -> Path:
    return plan.embedding.parts[0].tensor.file.path.parent.resolve()


def _checkpoint_state(plan: DecoderPlan) -> list[tuple[str, int, int]]:
    """Name, size and time of change of each file: a checkpoint that changed has another fingerprint."""
    files = {part.tensor.file.path for parameter in plan.parameters() for part in parameter.parts}
    return [(path.name, path.stat().st_size, path.stat().st_mtime_ns) for path in sorted(files)]


def _fingerprint(plan: DecoderPlan, tensors: list[PackedTensor], library: KernelLibrary) -> str:
    """The parts of the checkpoint it was made of, and how: two engines that agree on them share the file."""
    state = hashlib.sha256(repr(_checkpoint_state(plan)).encode()).hexdigest()[:12]
    made_of = [(p.name, p.shape, [(q.tensor.name, q.start, q.end) for q in p.parts]) for p in plan.parameters()]
    layout = [(t.name, None if t.kind is None else int(t.kind), t.n, t.k) for t in tensors]
    how = hashlib.sha256(repr((_MAGIC, library.unit, made_of, layout)).encode()).hexdigest()[:12]
    return f"{state}-{how}"


def _drop_older(path: Path) -> None:
    """Files of an earlier state of the checkpoint, and what killed processes left. Who maps one keeps it."""
    state = path.name.split("-")[0]
    for other in path.parent.iterdir():
        outdated = other.suffix == ".flat" and not other.name.startswith(state)
        abandoned = other.suffix.startswith(".partial-") and not _is_alive(int(other.suffix[9:]))
        if outdated or abandoned:
            other.unlink(missing_ok=True)


def _drop_orphans(weights: Path) -> None:
    """What was packed for model folders that are gone."""
    for place in weights.iterdir():
        source = place / _SOURCE
        if source.is_file() and not Path(source.read_text()).is_dir():
            shutil.rmtree(place, ignore_errors=True)


def _is_alive(pid: int) -> bool:
    return Path(f"/proc/{pid}").exists()
