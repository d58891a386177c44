"""Pieces: the hidden states of whole texts, computed a part of the texts' tokens and a layer at a time.

Along tokens alone only a decoder can be cut, with the keys and values of all layers kept meanwhile; along layers alone
one layer of a long text is long. Some tokens in one layer are short in any model, and one layer's keys and values do.
"""

from __future__ import annotations

from collections.abc import Generator, Iterable

import torch

from .parameter import Parameter

Pieces = Generator[None, None, torch.Tensor]
"""Yields after each piece, and returns the hidden states."""

_LEAST_TOKENS = 32
"""Matrices are read from memory for each piece; with fewer tokens that takes longer than multiplying by them."""


def parameters_of_a_layer(matrices: Iterable[Parameter], num_layers: int) -> int:
    return sum(matrix.num_elements for matrix in matrices) // max(1, num_layers)


def piece_tokens(layer_parameters: int, longest: int, width: int, multiplications: int | None) -> int:
    """Tokens of a piece; with the projections and the MLP each takes its scores over `longest` keys, and their sum.

    width: of all heads.
    """
    if multiplications is None:
        return 1 << 62
    return max(_LEAST_TOKENS, multiplications // (layer_parameters + 2 * longest * width))


def cuts(length: int, most: int) -> list[slice]:
    """`length` tokens in parts of `most`, the last one what is left."""
    return [slice(first, min(first + most, length)) for first in range(0, length, max(1, most))]
