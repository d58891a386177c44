"""Weights as torch's operators multiply them: one class for each operator, all with the same face.

The operators of 8-bit weights see the same whole numbers and add exactly, so a row's product does not depend on the
rows beside it. An operator may be missing in a build of torch, or compute wrongly or otherwise on a processor: see
`self_test`.
"""

from __future__ import annotations

import warnings
from typing import Any, Protocol

import torch
import torch.nn.functional as F

from .quantization import (
    ACTIVATION_LEVELS,
    CAREFUL_WEIGHT_LEVELS,
    GROUP,
    WEIGHT_LEVELS,
    Weight,
    normalized_rows,
    quantize_groups,
    quantize_rows,
)


class Matrix(Protocol):
    """A weight [N, K] that exists only as its operator wants it."""

    def __init__(self, weight: Weight, bias: torch.Tensor | None, *, careful: bool) -> None:
        """Read and pack, on one thread. careful: for a processor whose 16-bit sums of 8-bit products overflow.

        Raises CheckpointError for NaN or infinity, RuntimeError where the operator does not take such a matrix.
        """

    def __call__(self, x: torch.Tensor) -> torch.Tensor:
        """float32 [T, K] -> [T, N]; T may be 0."""


class PlainMatrix:
    """float32 as torch.nn has it: a view of the checkpoint where that holds just these values."""

    def __init__(self, weight: Weight, bias: torch.Tensor | None, *, careful: bool) -> None:
        self._weight, self._bias = weight.load_finite(torch.float32), bias

    def __call__(self, x: torch.Tensor) -> torch.Tensor:
        return F.linear(x, self._weight, self._bias)


class OnednnMatrix:
    """float32 in oneDNN's blocks; one packing serves every number of rows, best for 2 to 64."""

    def __init__(self, weight: Weight, bias: torch.Tensor | None, *, careful: bool) -> None:
        self._packed = torch.ops.mkldnn._reorder_linear_weight(weight.load_finite(torch.float32), 512)
        self._bias = bias

    def __call__(self, x: torch.Tensor) -> torch.Tensor:
        product: torch.Tensor = torch.ops.mkldnn._linear_pointwise(x, self._packed, self._bias, "none", [], "")
        return product


class FbgemmInt8:
    """int8 by FBGEMM, which quantises the activations on the way in."""

    def __init__(self, weight: Weight, bias: torch.Tensor | None, *, careful: bool) -> None:
        values, scales = quantize_rows(weight, CAREFUL_WEIGHT_LEVELS if careful else WEIGHT_LEVELS)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of the age of quantised tensors; `self_test` sees when they are gone
            tensor = torch._make_per_channel_quantized_tensor(
                values, scales.double(), torch.zeros(len(scales), dtype=torch.int64), 0
            )
        self._packed = _with_engine("fbgemm", tensor)
        self._bias = bias

    def __call__(self, x: torch.Tensor) -> torch.Tensor:
        rows, largest = normalized_rows(x)
        product = torch.ops.quantized.linear_with_input_q_dq_qweight_dq_output_fp32(
            rows, 1 / ACTIVATION_LEVELS, ACTIVATION_LEVELS + 1, self._packed
        )
        return _scaled(product, largest, self._bias)


class OnednnInt8:
    """int8 by oneDNN, weights in its blocks."""

    def __init__(self, weight: Weight, bias: torch.Tensor | None, *, careful: bool) -> None:
        values, self._scales = quantize_rows(weight, CAREFUL_WEIGHT_LEVELS if careful else WEIGHT_LEVELS)
        self._packed = torch.ops.onednn.qlinear_prepack(values, None)
        self._zeros = torch.zeros(len(values), dtype=torch.int64)
        self._middle = torch.tensor(ACTIVATION_LEVELS + 1.5)  # the half turns the cut of a conversion into rounding
        self._bias = bias

    def __call__(self, x: torch.Tensor) -> torch.Tensor:
        rows, largest = normalized_rows(x)
        steps = torch.add(self._middle, rows, alpha=ACTIVATION_LEVELS).to(torch.uint8)
        product = torch.ops.onednn.qlinear_pointwise(
            steps, 1 / ACTIVATION_LEVELS, ACTIVATION_LEVELS + 1, self._packed, self._scales, self._zeros,
            None, 1.0, 0, torch.float32, "none", [], "",
        )  # fmt: skip
        return _scaled(product, largest, self._bias)


class TransposedInt8:
    """int8 by torch's product of int8 matrices, weights as they are."""

    def __init__(self, weight: Weight, bias: torch.Tensor | None, *, careful: bool) -> None:
        values, scales = quantize_rows(weight, CAREFUL_WEIGHT_LEVELS if careful else WEIGHT_LEVELS)
        self._weight, self._scales = values.t(), scales / ACTIVATION_LEVELS
        self._bias = bias

    def __call__(self, x: torch.Tensor) -> torch.Tensor:
        rows, largest = normalized_rows(x)
        steps = rows.mul_(ACTIVATION_LEVELS).round_().to(torch.int8)
        return _scaled(torch.mul(torch._int_mm(steps, self._weight), self._scales), largest, self._bias)


class WidenedInt8:
    """int8 weights widened in each call: exact activations, slow, and works wherever torch does."""

    def __init__(self, weight: Weight, bias: torch.Tensor | None, *, careful: bool) -> None:
        self._weight, scales = quantize_rows(weight, WEIGHT_LEVELS)
        self._scales, self._bias = scales, bias

    def __call__(self, x: torch.Tensor) -> torch.Tensor:
        return _scaled(F.linear(x, self._weight.to(x.dtype)), self._scales, self._bias)


class PackedInt4:
    """4-bit groups by torch's own packing, activations in bfloat16."""

    def __init__(self, weight: Weight, bias: torch.Tensor | None, *, careful: bool) -> None:
        if weight.shape[1] % GROUP:
            raise RuntimeError(f"{weight.shape[1]} columns are no whole number of groups")
        values, scales = quantize_groups(weight)
        self._packed = torch.ops.aten._convert_weight_to_int4pack_for_cpu(values.int(), 1)
        self._scales = torch.stack((scales.t(), torch.zeros_like(scales.t())), dim=-1).contiguous()
        self._bias = bias

    def __call__(self, x: torch.Tensor) -> torch.Tensor:
        half = x.to(torch.bfloat16)
        product: torch.Tensor = torch.ops.aten._weight_int4pack_mm_for_cpu(half, self._packed, GROUP, self._scales)
        product = product.float()
        return product if self._bias is None else product.add_(self._bias)


class WidenedInt4:
    """4-bit groups widened in each call: for matrices that are no whole number of groups."""

    def __init__(self, weight: Weight, bias: torch.Tensor | None, *, careful: bool) -> None:
        values, self._scales = quantize_groups(weight)
        self._pairs = values[:, ::2] | (values[:, 1::2] << 4)
        self._columns, self._bias = weight.shape[1], bias

    def __call__(self, x: torch.Tensor) -> torch.Tensor:
        values = torch.stack((self._pairs & 15, self._pairs >> 4), dim=-1).view(*self._scales.shape, GROUP)
        weight = (values.float() - 8).mul_(self._scales[:, :, None]).flatten(1)
        return F.linear(x, weight[:, : self._columns], self._bias)


KERNELS: dict[str, dict[str, type[Matrix]]] = {
    "float32": {"onednn": OnednnMatrix, "plain": PlainMatrix},
    "int8": {"fbgemm": FbgemmInt8, "onednn": OnednnInt8, "transposed": TransposedInt8, "widened": WidenedInt8},
    "int4": {"packed": PackedInt4, "widened": WidenedInt4},
}
"""By kind of weight; the first that works is taken where nothing was measured. The last of each always works.

`torch._weight_int8pack_mm` is none of them: it reads past the end of rows that are no whole number of vectors.
"""


def _with_engine(engine: str, weight: torch.Tensor) -> Any:
    """A quantised weight packed by one of torch's engines. Raises RuntimeError where torch has no such engine."""
    before = torch.backends.quantized.engine
    torch.backends.quantized.engine = engine
    try:
        return torch.ops.quantized.linear_prepack(weight, None)
    finally:
        torch.backends.quantized.engine = before


def _scaled(product: torch.Tensor, scale: torch.Tensor, bias: torch.Tensor | None) -> torch.Tensor:
    return product.mul_(scale) if bias is None else torch.addcmul(bias, product, scale)
