"""Parameter: a matrix or vector of a model, read only when asked for, and only the rows that are asked for.

torch is imported where values are read: to know where they lie takes none.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING

from ..errors import CheckpointError
from .safetensors_file import StoredTensor

if TYPE_CHECKING:
    import torch

_PIECE_ELEMENTS = 2**20


@dataclass(frozen=True, slots=True)
class Part:
    """Rows [start, end) of a stored tensor."""

    tensor: StoredTensor
    start: int
    end: int

    @property
    def num_rows(self) -> int:
        return self.end - self.start


@dataclass(frozen=True, slots=True)
class Parameter:
    """What a layer multiplies or adds: parts of the checkpoint, one below the other. Building one reads no data.

    name: unique in its plan; the stored tensor's where there is one part.  shape: [rows, columns] or [rows].
    """

    name: str
    shape: tuple[int, ...]
    parts: tuple[Part, ...]

    @property
    def stored_dtype(self) -> torch.dtype:
        """As in the checkpoint; the wider one where parts differ."""
        import torch

        dtype = self.parts[0].tensor.dtype
        for part in self.parts[1:]:
            dtype = torch.promote_types(dtype, part.tensor.dtype)
        return dtype

    @property
    def num_elements(self) -> int:
        return self.shape[0] * (self.shape[1] if len(self.shape) > 1 else 1)

    def load(self, dtype: torch.dtype) -> torch.Tensor:
        """All of it. A view of the mapped file where the file holds just that; never write into it."""
        if len(self.parts) == 1 and self.parts[0].tensor.dtype is dtype:
            return self.parts[0].tensor.rows(self.parts[0].start, self.parts[0].end)
        return self.rows(0, self.shape[0], dtype)

    def rows(self, start: int, end: int, dtype: torch.dtype) -> torch.Tensor:
        """Rows [start, end) as a tensor of their own; the file's pages behind them are given back at once."""
        import torch

        result = torch.empty((end - start, *self.shape[1:]), dtype=dtype)
        for tensor, first, last, at in self._pieces(start, end):
            result[at : at + last - first] = tensor.rows(first, last)
            tensor.release(first, last)
        return result

    def load_finite(self, dtype: torch.dtype) -> torch.Tensor:
        """`load`, for those who compute with it as it is. Raises CheckpointError for NaN or infinity."""
        import torch

        values = self.load(dtype)
        if not values.sum(dtype=torch.float32).isfinite():  # one pass; only a suspect is looked at closely
            bad = ~values.float().isfinite().view(self.shape[0], -1).all(dim=1)
            if bool(bad.any()):
                raise self.not_finite(int(bad.nonzero()[0]))
        return values

    def finite_pieces(self, dtype: torch.dtype) -> Iterator[tuple[int, torch.Tensor]]:
        """Some `rows` of it at a time with the first one's number. Raises CheckpointError for NaN or infinity."""
        import torch

        step = max(1, _PIECE_ELEMENTS * self.shape[0] // self.num_elements)
        for start in range(0, self.shape[0], step):
            rows = self.rows(start, min(start + step, self.shape[0]), dtype)
            if not rows.sum(dtype=torch.float32).isfinite():
                bad = ~rows.isfinite().view(len(rows), -1).all(dim=1)
                if bool(bad.any()):
                    raise self.not_finite(start + int(bad.nonzero()[0]))
            yield start, rows

    def not_finite(self, row: int) -> CheckpointError:
        """The error for a row that holds NaN or infinity: it names the stored tensor and its row."""
        ((tensor, stored_row, _, _),) = self._pieces(row, row + 1)
        return CheckpointError(f"{tensor.file.path}: tensor {tensor.name!r} holds NaN or infinity in row {stored_row}")

    def _pieces(self, start: int, end: int) -> Iterator[tuple[StoredTensor, int, int, int]]:
        """Stored tensors with their row ranges [first, last) that make up rows [start, end), and where each goes."""
        above = 0
        for part in self.parts:
            first, last = max(start, above), min(end, above + part.num_rows)
            if first < last:
                shift = part.start - above
                yield part.tensor, first + shift, last + shift, first - start
            above += part.num_rows
