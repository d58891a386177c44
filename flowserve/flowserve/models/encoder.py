"""EncoderModel: a BERT-style encoder in torch operators, built from its plan."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial

import torch
import torch.nn.functional as F

from ..device.base import Operators
from ..layers.linear import Linear
from .bert import Affine, EncoderLayerPlan, EncoderPlan
from .decoder import MakeLinear
from .parameter import Parameter
from .pieces import Pieces, cuts, parameters_of_a_layer, piece_tokens

_tanh_gelu = partial(F.gelu, approximate="tanh")
_ACTIVATIONS: dict[str, Callable[[torch.Tensor], torch.Tensor]] = {
    "gelu": F.gelu,
    "gelu_new": _tanh_gelu,
    "gelu_pytorch_tanh": _tanh_gelu,
    "relu": F.relu,
    "silu": F.silu,
}


class EncoderModel:
    """B texts of L tokens each (shorter ones padded), d hidden size.

    make_linear: what multiplies by a matrix of the layers; None = as the device does it.

    Raises CheckpointError for a tensor that holds NaN or infinity.
    """

    def __init__(
        self, plan: EncoderPlan, operators: Operators, dtype: torch.dtype, make_linear: MakeLinear | None = None
    ) -> None:
        load = _Loader(operators, dtype, plan.config.layer_norm_eps, make_linear)
        self.config = plan.config
        self._words = load.tensor(plan.words)
        # Every token here is of the first type, so types and positions are one table.
        self._places = load.tensor(plan.positions) + load.tensor(plan.types)[0]
        self._norm = load.norm(plan.embedding_norm)
        self._layers = [_EncoderLayer(layer, plan, load) for layer in plan.layers]
        self._layer_parameters = parameters_of_a_layer(plan.matrices(), len(plan.layers))

    def pieces(self, token_ids: torch.Tensor, lengths: Sequence[int], multiplications: int | None = None) -> Pieces:
        """token_ids [B, L] -> hidden states [B, L, d]; what stands behind a text's length is not read, nor filled.

        multiplications: what a piece may take; None = a piece is half a layer.
        """
        hidden = F.embedding(token_ids, self._words) + self._places[self._positions(token_ids)]
        batch, longest = token_ids.shape
        mask = None
        if min(lengths) < longest:
            mask = torch.arange(longest) < torch.tensor(list(lengths))[:, None]
            mask = mask[:, None, None].to(token_ids.device)
        hidden = self._norm(hidden)
        most = piece_tokens(self._layer_parameters, longest, self.config.hidden_size, multiplications)
        parts = cuts(longest, most // batch)
        for layer in self._layers:
            hidden = yield from layer.pieces(hidden, mask, parts)
        return hidden

    def _positions(self, token_ids: torch.Tensor) -> torch.Tensor:
        padding_id = self.config.padding_id
        if padding_id is None:
            return torch.arange(token_ids.shape[1], device=token_ids.device)
        counted = token_ids != padding_id
        return counted.cumsum(1) * counted + padding_id


class _EncoderLayer:
    """Attention and MLP, each added to what it got and then normed."""

    def __init__(self, layer: EncoderLayerPlan, plan: EncoderPlan, load: _Loader) -> None:
        self._num_heads = plan.config.num_heads
        self._activation = _ACTIVATIONS[plan.config.activation]
        self._qkv, self._output = load.linear(layer.qkv), load.linear(layer.output)
        self._up, self._down = load.linear(layer.up), load.linear(layer.down)
        self._attention_norm, self._mlp_norm = load.norm(layer.attention_norm), load.norm(layer.mlp_norm)

    def pieces(self, hidden: torch.Tensor, mask: torch.Tensor | None, parts: Sequence[slice]) -> Pieces:
        """Every token sees all of its text, so the keys and values of all parts come before any part's attention."""
        batch, length, size = hidden.shape
        projected = []
        for part in parts:
            projected.append(self._qkv(hidden[:, part]))
            yield
        heads = _joined(projected).view(batch, length, 3, self._num_heads, -1).permute(2, 0, 3, 1, 4)
        computed = []
        for part in parts:
            query = heads[0][:, :, part]
            attended = F.scaled_dot_product_attention(query, heads[1], heads[2], attn_mask=mask)
            added = self._output(attended.transpose(1, 2).reshape(batch, query.shape[2], size))
            normed = self._attention_norm(hidden[:, part] + added)
            computed.append(self._mlp_norm(normed + self._down(self._activation(self._up(normed)))))
            yield
        return _joined(computed)


def _joined(parts: list[torch.Tensor]) -> torch.Tensor:
    return parts[0] if len(parts) == 1 else torch.cat(parts, dim=1)


class _Loader:
    """Parameters as layers hold them."""

    def __init__(self, operators: Operators, dtype: torch.dtype, eps: float, make_linear: MakeLinear | None) -> None:
        self._operators, self._dtype, self._eps = operators, dtype, eps
        self._make_linear = make_linear

    def tensor(self, parameter: Parameter) -> torch.Tensor:
        return parameter.load_finite(self._dtype).to(self._operators.torch_device)

    def linear(self, affine: Affine) -> Callable[[torch.Tensor], torch.Tensor]:
        bias = self.tensor(affine.bias)
        if self._make_linear is not None:
            return _Unbatched(self._make_linear(affine.weight, bias))
        return Linear(self._operators.prepare_weight(self.tensor(affine.weight)), bias, self._operators)

    def norm(self, affine: Affine) -> Callable[[torch.Tensor], torch.Tensor]:
        weight, bias = self.tensor(affine.weight), self.tensor(affine.bias)
        return partial(F.layer_norm, normalized_shape=weight.shape, weight=weight, bias=bias, eps=self._eps)


class _Unbatched:
    """For what multiplies [T, in] only."""

    def __init__(self, multiply: Callable[[torch.Tensor], torch.Tensor]) -> None:
        self._multiply = multiply

    def __call__(self, x: torch.Tensor) -> torch.Tensor:
        product = self._multiply(x.flatten(0, -2))
        return product.view(*x.shape[:-1], product.shape[-1])
