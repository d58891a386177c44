"""Packed products against numpy, for every kind of storage, size and number of rows."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from flowserve.device.cpu_kernels.library import KernelLibrary, Kind, kernel_library

from .kernels import Packed, quantized_rows


def _random(seed: int, *shape: int) -> np.ndarray:
    return np.random.default_rng(seed).standard_normal(shape, dtype=np.float32)


def _check(library: KernelLibrary, kind: Kind, n: int, k: int, rows: int) -> None:
    weight, x, bias = _random(n, n, k), _random(k, rows, k), _random(rows, n)
    packed = Packed.of(library, kind, weight, bias)
    stored = packed.weight()
    seen = quantized_rows(x) if kind in (Kind.INT8, Kind.INT4) else x
    np.testing.assert_allclose(packed.multiply(x), seen @ stored.T + bias, rtol=2e-5, atol=2e-5 * k**0.5 + 1e-5)
    most = np.abs(weight).max(axis=1, keepdims=True)
    error = {Kind.BFLOAT16: 2.0**-8, Kind.FLOAT16: 2.0**-11, Kind.INT8: 0.5 / 127, Kind.INT4: 1.01 / 8}.get(kind, 0.0)
    assert (np.abs(stored - weight) <= error * most * 1.001).all()


@pytest.mark.parametrize("kind", Kind)
@settings(max_examples=25)
@given(n=st.integers(1, 70), k=st.integers(1, 150), rows=st.integers(1, 30))
def test_products_are_those_of_the_stored_weights(kind: Kind, n: int, k: int, rows: int) -> None:
    _check(kernel_library(), kind, n, k, rows)


@pytest.mark.slow
@pytest.mark.parametrize("kind", Kind)
def test_other_processors(other_library: KernelLibrary, kind: Kind) -> None:
    for n, k, rows in [(1, 1, 1), (33, 65, 7), (48, 96, 13), (20, 200, 30)]:
        _check(other_library, kind, n, k, rows)


@pytest.mark.parametrize("kind", Kind)
def test_a_row_is_the_same_alone_and_among_others(kind: Kind) -> None:
    packed = Packed.of(kernel_library(), kind, _random(0, 40, 100))
    x = _random(1, 29, 100)
    together = packed.multiply(x)
    for row in range(29):
        np.testing.assert_array_equal(packed.multiply(x[row : row + 1])[0], together[row])


@pytest.mark.parametrize("kind", Kind)
@pytest.mark.parametrize("poison", [np.nan, np.inf, -np.inf])
def test_a_row_that_is_not_finite_is_found(kind: Kind, poison: float) -> None:
    weight = _random(0, 50, 40)
    weight[37, 11] = poison
    library = kernel_library()
    memory = np.zeros(library.matrix_bytes(kind, 50, 40), np.uint8)
    assert library.c.fs_pack(kind, weight.ctypes.data, 50, 40, memory.ctypes.data) == 37


def _halves(seed: int, n: int, k: int) -> np.ndarray:
    """Of every size that half precision knows: the smallest are below its normal range."""
    bits = np.random.default_rng(seed).integers(0, 0x7C00, (n, k), dtype=np.uint16)
    signs = np.random.default_rng(seed + 1).integers(0, 2, (n, k), dtype=np.uint16) << 15
    return (bits | signs).view(np.float16)


def test_half_precision_is_kept_bit_by_bit(other_library: KernelLibrary) -> None:
    weight = _halves(0, 40, 300).astype(np.float32)
    for library in (kernel_library(), other_library):
        np.testing.assert_array_equal(Packed.of(library, Kind.FLOAT16, weight).weight(), weight)
        x = _random(1, 5, 300)
        exact = Packed.of(library, Kind.FLOAT32, weight).multiply(x)
        np.testing.assert_array_equal(Packed.of(library, Kind.FLOAT16, weight).multiply(x), exact)


def test_zero_rows_and_columns_stay_zero() -> None:
    for kind in Kind:
        packed = Packed.of(kernel_library(), kind, np.zeros((20, 40), np.float32))
        assert not packed.multiply(_random(0, 3, 40)).any()
        assert not Packed.of(kernel_library(), kind, _random(0, 20, 40)).multiply(np.zeros((3, 40), np.float32)).any()
