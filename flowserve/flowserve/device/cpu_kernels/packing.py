"""From a plan to packed matrices: which storage each gets, and its rows in the order the kernels want."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass

import torch

from ...models.parameter import Parameter
from ...models.plan import DecoderPlan, LayerPlan
from .library import Kind

LANES = 16
_EXACT = {torch.bfloat16: Kind.BFLOAT16, torch.float16: Kind.FLOAT16}


@dataclass(frozen=True, slots=True)
class PackedTensor:
    """One entry of the flat file.

    kind: None for a vector, stored as float32.  n, k: rows and columns as the kernels see them (k is 1 for a vector).
    rows: float32 rows [start, end) of the n, padding included.  not_finite: the error for row i that holds a NaN.
    """

    name: str
    kind: Kind | None
    n: int
    k: int
    rows: Callable[[int, int], torch.Tensor]
    not_finite: Callable[[int], Exception]


def packed_tensors(plan: DecoderPlan, dtype: torch.dtype, quantization: str | None) -> Iterator[PackedTensor]:
    """All entries of a model in the order a step reads them.

    Exact storage keeps a checkpoint of bfloat16 or float16 in its 16 bits, because float32 arithmetic reads it from
    there without loss.
    With 4-bit weights the embedding and the output projection stay at 8 bits: they are the most sensitive.
    """

    def kind_of(parameter: Parameter, outer: bool = False) -> Kind:
        if quantization == "int8" or (quantization == "int4" and outer):
            return Kind.INT8
        if quantization == "int4":
            return Kind.INT4
        return _EXACT.get(torch.bfloat16 if dtype is torch.bfloat16 else parameter.stored_dtype, Kind.FLOAT32)

    yield _plain("embedding", plan.embedding, kind_of(plan.embedding, outer=True))
    for index, layer in enumerate(plan.layers):
        yield from _layer_tensors(f"layers.{index}.", layer, kind_of)
    yield _vector("final_norm", plan.final_norm)
    if plan.head is not None:
        yield _plain("head", plan.head, kind_of(plan.head, outer=True))


def _layer_tensors(prefix: str, layer: LayerPlan, kind_of: Callable[[Parameter], Kind]) -> Iterator[PackedTensor]:
    for name in ("attention_norm", "query_norm", "key_norm", "mlp_norm", "qkv_bias", "output_bias", "down_bias"):
        if (parameter := getattr(layer, name)) is not None:
            yield _vector(prefix + name, parameter)
    if layer.gate_up_bias is not None:
        yield _gate_up(prefix + "gate_up_bias", layer.gate_up_bias, None)
    for name in ("qkv", "output"):
        yield _plain(prefix + name, getattr(layer, name), kind_of(getattr(layer, name)))
    yield _gate_up(prefix + "gate_up", layer.gate_up, kind_of(layer.gate_up))
    yield _plain(prefix + "down", layer.down, kind_of(layer.down))


def _plain(name: str, parameter: Parameter, kind: Kind) -> PackedTensor:
    n, k = parameter.shape

    def rows(start: int, end: int) -> torch.Tensor:
        return parameter.rows(start, end, torch.float32)

    return PackedTensor(name, kind, n, k, rows, parameter.not_finite)


def _vector(name: str, parameter: Parameter) -> PackedTensor:
    def rows(start: int, end: int) -> torch.Tensor:
        return parameter.rows(start, end, torch.float32)

    return PackedTensor(name, None, parameter.shape[0], 1, rows, parameter.not_finite)


def _gate_up(name: str, parameter: Parameter, kind: Kind | None) -> PackedTensor:
    """Sixteen rows of gate, sixteen of up, and so on, so that one thread holds both halves of an activation."""
    half = parameter.shape[0] // 2
    padded = -(-half // LANES) * LANES
    tail = parameter.shape[1:]

    def half_rows(first: int, start: int, end: int) -> torch.Tensor:
        end_stored = min(end, half)
        stored = parameter.rows(first + start, first + end_stored, torch.float32)
        return stored if end == end_stored else torch.cat((stored, torch.zeros(end - end_stored, *tail)))

    def rows(start: int, end: int) -> torch.Tensor:
        begin, finish = start // 2, end // 2  # whole pairs of panels: the caller goes by multiples of 32
        shape = (-1, LANES, *tail)
        gate, up = half_rows(0, begin, finish), half_rows(half, begin, finish)
        return torch.stack((gate.view(shape), up.view(shape)), dim=1).reshape(end - start, *tail)

    def not_finite(row: int) -> Exception:
        pair, inside = divmod(row, 2 * LANES)
        is_up, lane = divmod(inside, LANES)
        return parameter.not_finite(is_up * half + pair * LANES + lane)

    return PackedTensor(name, kind, 2 * padded, tail[0] if tail else 1, rows, not_finite)
