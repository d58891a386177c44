"""LinearFactory: the linear layers of one model, each by the kernel that was chosen for its shape."""

from __future__ import annotations

from collections.abc import Callable, Iterable

import torch

from ...models.parameter import Parameter
from .choice import Choice, Shape, choose
from .matrices import KERNELS, Matrix


class LinearFactory:
    """Called with each of the matrices. With 4-bit weights `head` has 8, the output projection of a model that
    generates: it is the most sensitive."""

    def __init__(
        self,
        matrices: Iterable[Parameter],
        quantization: str | None,
        dtype: torch.dtype,
        num_threads: int,
        head: Parameter | None = None,
    ) -> None:
        self._kind = quantization or "float32"
        self._dtype = dtype
        self._head = head
        shapes: dict[str, set[Shape]] = {}
        for weight in matrices:
            shapes.setdefault(self._kind_of(weight), set()).add(_shape(weight))
        self._choices: dict[tuple[str, Shape], Choice] = {
            (kind, shape): choice
            for kind, members in shapes.items()
            for shape, choice in choose(kind, members, num_threads).items()
        }

    def __call__(self, weight: Parameter, bias: torch.Tensor | None) -> Callable[[torch.Tensor], torch.Tensor]:
        kind = self._kind_of(weight)
        choice = self._choices[kind, _shape(weight)]
        wide_bias = None if bias is None else bias.float()
        matrix = KERNELS[kind][choice.kernel](weight, wide_bias, careful=choice.careful)
        return matrix if self._dtype is torch.float32 else _Widening(matrix)

    def _kind_of(self, weight: Parameter) -> str:
        return "int8" if self._kind == "int4" and weight is self._head else self._kind


class _Widening:
    """For activations in another dtype than float32, in which the kernels compute."""

    def __init__(self, matrix: Matrix) -> None:
        self._matrix = matrix

    def __call__(self, x: torch.Tensor) -> torch.Tensor:
        return self._matrix(x.float()).to(x.dtype)


def _shape(weight: Parameter) -> Shape:
    return weight.shape[0], weight.shape[1]
