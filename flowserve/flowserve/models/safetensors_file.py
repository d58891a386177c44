"""SafetensorsFile: one safetensors file, its header checked before a byte of its tensors is believed.

Format: 8 bytes with the header's length (little endian), the header (a JSON object: name -> dtype, shape and
data_offsets behind the header), the tensors' bytes without gap or overlap up to the end of the file. Source: the
format's specification at https://github.com/huggingface/safetensors#format. Headers are read without torch.
"""

from __future__ import annotations

import ctypes
import json
import math
import mmap
import os
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..errors import CheckpointError
from ..loading.read_pages import read_pages
from .folder_state import FileState

if TYPE_CHECKING:
    import torch

MAX_HEADER_BYTES = 100_000_000
"""As in the reference reader: a longer header is an attack or a damaged length."""

_TYPES = {
    "F64": ("float64", 8),
    "F32": ("float32", 4),
    "F16": ("float16", 2),
    "BF16": ("bfloat16", 2),
    "I64": ("int64", 8),
    "I32": ("int32", 4),
    "I16": ("int16", 2),
    "I8": ("int8", 1),
    "U8": ("uint8", 1),
    "BOOL": ("bool", 1),
    "F8_E4M3": ("float8_e4m3fn", 1),
    "F8_E5M2": ("float8_e5m2", 1),
}
"""What torch calls them, and the bytes of an element."""
_MAP_NORESERVE = 0x4000


@dataclass(frozen=True, slots=True)
class StoredTensor:
    """Where a tensor lies: `size_bytes` bytes at `offset` from the start of `file`. type_name: of its dtype."""

    file: SafetensorsFile
    name: str
    type_name: str
    shape: tuple[int, ...]
    offset: int
    size_bytes: int

    @property
    def dtype(self) -> torch.dtype:
        import torch

        dtype: torch.dtype = getattr(torch, self.type_name)
        return dtype

    @property
    def is_floating_point(self) -> bool:
        return "float" in self.type_name

    @property
    def row_bytes(self) -> int:
        """Bytes of one index of the first axis."""
        return self.size_bytes // self.shape[0] if self.shape and self.shape[0] else 0

    def rows(self, start: int, end: int) -> torch.Tensor:
        """Rows [start, end) as stored, backed by the mapped file: what is not touched is not read."""
        return self.file.view(
            self.dtype,
            (end - start, *self.shape[1:]),
            self.offset + start * self.row_bytes,
        )

    def release(self, start: int, end: int) -> None:
        """Give back the memory of rows [start, end) of the mapped file; they are read anew when touched again."""
        self.file.release(self.offset + start * self.row_bytes, (end - start) * self.row_bytes)


class SafetensorsFile:
    """A mapped file. `tensors`: by name.  `state`: of the very file that is mapped.

    Raises CheckpointError naming the file, and the tensor where one is at fault: a length, header, offset, dtype or
    shape that contradicts the others or the file's size.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        try:
            with path.open("rb") as file:
                self.state = FileState.of(os.fstat(file.fileno()))
                size = file.seek(0, 2)
                header, start = _read_header(path, file, size)
                # Private and writable, which torch asks for; nothing writes, so the pages stay the page cache's, and
                # no memory need be put by for copies of them.
                flags, prot = mmap.MAP_PRIVATE | _MAP_NORESERVE, mmap.PROT_READ | mmap.PROT_WRITE
                self._pages = mmap.mmap(file.fileno(), 0, flags, prot)
        except OSError as error:
            raise CheckpointError(f"{path}: {error.strerror or error}") from error
        self.tensors = {
            name: self._stored(name, entry, start, size) for name, entry in header.items() if name != "__metadata__"
        }
        self._check_places(start, size)

    def view(self, dtype: torch.dtype, shape: tuple[int, ...], offset: int) -> torch.Tensor:
        """Bytes from `offset` on as a tensor over the mapping, or a copy where they are not aligned to the dtype."""
        import torch

        count = math.prod(shape)
        if count == 0:
            return torch.empty(shape, dtype=dtype)
        if offset % dtype.itemsize:
            aligned = bytearray(self._pages[offset : offset + count * dtype.itemsize])
            return torch.frombuffer(aligned, dtype=dtype).view(shape)
        return torch.frombuffer(self._pages, dtype=dtype, count=count, offset=offset).view(shape)

    def release(self, offset: int, size_bytes: int) -> None:
        """Drop the whole pages of a byte range from this process's memory."""
        first = -(-offset // mmap.PAGESIZE) * mmap.PAGESIZE
        end = (offset + size_bytes) // mmap.PAGESIZE * mmap.PAGESIZE
        if end > first:
            self._pages.madvise(mmap.MADV_DONTNEED, first, end - first)

    def memory(self, offset: int, size_bytes: int) -> memoryview:
        """A byte range of the mapping."""
        return memoryview(self._pages)[offset : offset + size_bytes]

    def bring(self, offset: int, size_bytes: int) -> None:
        """Have the pages of a byte range in memory, so that who touches them waits for no disk. Raises LoadingError."""
        first = offset // mmap.PAGESIZE * mmap.PAGESIZE
        base = ctypes.addressof(ctypes.c_char.from_buffer(self._pages))
        read_pages(base + first, offset + size_bytes - first, f"{self.path}: cannot be read at byte {offset}")

    def _stored(self, name: str, entry: Any, start: int, size: int) -> StoredTensor:
        where = f"{self.path}: tensor {name!r}"
        if not isinstance(entry, dict) or not {"dtype", "shape", "data_offsets"} <= entry.keys():
            raise CheckpointError(f"{where}: the header gives no dtype, shape and data_offsets: {entry!r}")
        if not isinstance(entry["dtype"], str) or entry["dtype"] not in _TYPES:
            raise CheckpointError(f"{where}: dtype {entry['dtype']!r} is not known")
        type_name, item_bytes = _TYPES[entry["dtype"]]
        shape, offsets = entry["shape"], entry["data_offsets"]
        if not _are_counts(shape):
            raise CheckpointError(f"{where}: shape {shape!r} is not a list of sizes")
        if not _are_counts(offsets) or len(offsets) != 2 or offsets[0] > offsets[1]:
            raise CheckpointError(f"{where}: data_offsets {offsets!r} are not a range of bytes")
        if start + offsets[1] > size:
            raise CheckpointError(f"{where}: ends at byte {start + offsets[1]}, the file has {size}: it is truncated")
        needed = math.prod(shape) * item_bytes
        if needed != offsets[1] - offsets[0]:
            raise CheckpointError(
                f"{where}: shape {tuple(shape)} of {entry['dtype']} takes {needed} bytes, data_offsets give"
                f" {offsets[1] - offsets[0]}"
            )
        return StoredTensor(self, name, type_name, tuple(shape), start + offsets[0], needed)

    def _check_places(self, start: int, size: int) -> None:
        """Tensors neither overlap nor leave bytes that nobody names."""
        placed = sorted(self.tensors.values(), key=lambda tensor: (tensor.offset, tensor.size_bytes))
        for before, after in pairwise(placed):
            if before.offset + before.size_bytes > after.offset:
                raise CheckpointError(f"{self.path}: tensors {before.name!r} and {after.name!r} overlap")
            if before.offset + before.size_bytes < after.offset:
                raise CheckpointError(f"{self.path}: bytes before tensor {after.name!r} belong to no tensor")
        end = placed[-1].offset + placed[-1].size_bytes if placed else start
        if (placed and placed[0].offset != start) or end != size:
            raise CheckpointError(f"{self.path}: tensors fill {end - start} of {size - start} bytes behind the header")


def _read_header(path: Path, file: Any, size: int) -> tuple[dict[str, Any], int]:
    """The header and where the tensors' bytes begin."""
    file.seek(0)
    length = int.from_bytes(file.read(8), "little")
    if size < 8:
        raise CheckpointError(f"{path}: {size} bytes are no safetensors file: it is truncated")
    if length > min(MAX_HEADER_BYTES, size - 8):
        raise CheckpointError(
            f"{path}: the header's length is given as {length} bytes, the file has {size}: it is truncated,"
            " or no safetensors file"
        )
    try:
        header = json.loads(file.read(length), object_pairs_hook=_no_duplicates)
    except (ValueError, RecursionError) as error:
        raise CheckpointError(f"{path}: the header is not readable: {error}") from error
    if not isinstance(header, dict):
        raise CheckpointError(f"{path}: the header is no JSON object")
    return header, 8 + length


def _no_duplicates(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    content = dict(pairs)
    if len(content) != len(pairs):
        names = [name for name, _ in pairs]
        raise ValueError(f"{next(name for name in names if names.count(name) > 1)!r} is there twice")
    return content


def _are_counts(values: Any) -> bool:
    return isinstance(values, list) and all(type(value) is int and 0 <= value < 2**63 for value in values)
