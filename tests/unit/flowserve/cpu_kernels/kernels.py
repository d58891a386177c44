"""Packed matrices for tests: numpy arrays in, numpy arrays out."""

from __future__ import annotations

import ctypes
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from flowserve.device.cpu_kernels.library import KernelLibrary, Kind, Matrix

Floats = NDArray[np.float32]


@dataclass(frozen=True)
class Packed:
    """A weight [n, k] as the library keeps it."""

    library: KernelLibrary
    matrix: Matrix
    memory: NDArray[np.uint8]

    @classmethod
    def of(cls, library: KernelLibrary, kind: Kind, weight: Floats, bias: Floats | None = None) -> Packed:
        n, k = weight.shape
        memory = np.zeros(library.matrix_bytes(kind, n, k), np.uint8)
        assert library.c.fs_pack(kind, weight.ctypes.data, n, k, memory.ctypes.data) == -1
        matrix = Matrix(kind, n, k, memory.ctypes.data, None if bias is None else bias.ctypes.data)
        return cls(library, matrix, memory)

    def multiply(self, x: Floats) -> Floats:
        y = np.full((len(x), self.matrix.n), np.nan, np.float32)
        self.library.c.fs_multiply(ctypes.byref(self.matrix), x.ctypes.data, len(x), y.ctypes.data)
        return y

    def weight(self) -> Floats:
        """What the stored values stand for, row by row."""
        rows = np.full((self.matrix.n, self.matrix.k), np.nan, np.float32)
        for index in range(self.matrix.n):
            self.library.c.fs_unpack_row(ctypes.byref(self.matrix), index, rows[index].ctypes.data)
        return rows


def quantized_rows(x: Floats) -> Floats:
    """Activations as the integer products see them: 255 steps per row."""
    scale = np.abs(x).max(axis=1, keepdims=True) / np.float32(127)
    return np.where(scale > 0, np.rint(x / np.where(scale > 0, scale, 1)) * scale, 0).astype(np.float32)
