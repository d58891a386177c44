"""DecoderStates: the hidden states of whole texts in a decoder, for embedding; no engine, nothing generated."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import accumulate

import torch

from ..attention.base import AttentionLengths, KVLayout
from ..device.base import DeviceAdapter, Operators
from ..layers.attention import ForwardContext
from ..layers.rotary import RotaryTable
from ..rtc.storage import KVStorage
from .config import ModelConfig
from .decoder import DecoderModel, MakeLinear
from .pieces import Pieces, cuts, parameters_of_a_layer, piece_tokens
from .plan import DecoderPlan


class DecoderStates:
    """Raises CheckpointError for a tensor that holds NaN or infinity."""

    def __init__(
        self,
        plan: DecoderPlan,
        device: DeviceAdapter,
        dtype: torch.dtype,
        max_length: int,
        make_linear: MakeLinear | None = None,
    ) -> None:
        """make_linear: see DecoderModel."""
        self._config = plan.config
        self._operators, self._dtype = device.operators, dtype
        self._block_size = device.default_block_size
        self._model = DecoderModel(plan, device.operators, dtype, make_linear, has_output=False)
        self._layer_parameters = parameters_of_a_layer(plan.matrices(), plan.config.num_layers)
        table = RotaryTable(plan.config.rope, max_length)
        self._cos, self._sin = (
            torch.cat((half, half), dim=-1)[:, None].to(device.operators.torch_device, dtype)
            for half in (table.cos, table.sin)
        )

    def pieces(self, token_ids: torch.Tensor, lengths: Sequence[int], multiplications: int | None = None) -> Pieces:
        """token_ids [B, L], of which each row's first `lengths` count -> hidden states [B, L, d].

        multiplications: what a piece may take; None = a piece is a layer.
        """
        inside = (torch.arange(token_ids.shape[1]) < torch.tensor(list(lengths))[:, None]).to(token_ids.device)
        width = self._config.num_heads * self._config.head_dim
        parts = cuts(sum(lengths), piece_tokens(self._layer_parameters, max(lengths), width, multiplications))
        texts = _Texts(lengths, self._config, self._operators, self._dtype, self._block_size)
        # Of a long text, the masks of all parts together are as large as its length squared: so they are made anew.
        plans = texts.plans(parts[0]) if len(parts) == 1 else None
        packed = self._model.embed(token_ids[inside])
        for layer in self._model.layers:
            for part in parts:
                at = texts.positions[part]
                context = ForwardContext(
                    self._cos[at], self._sin[at], texts.attention, plans or texts.plans(part), texts.storage
                )
                packed[part] = layer(packed[part], context)
                yield
        hidden = packed.new_zeros(*token_ids.shape, packed.shape[-1])
        hidden[inside] = self._model.norm(packed)
        return hidden


class _Texts:
    """Packed texts of so many tokens, and the keys and values of the layer that is computed now."""

    def __init__(
        self, lengths: Sequence[int], config: ModelConfig, operators: Operators, dtype: torch.dtype, block_size: int
    ) -> None:
        self._lengths = lengths
        self._ends = list(accumulate(lengths))
        self._windows = set(config.windows)
        self._block_size = block_size
        self._tables: list[range] = []
        """Blocks of each text, all neighbours."""
        self._slots: list[int] = []
        free = 0
        for length in lengths:
            self._tables.append(range(free, free - (-length // block_size)))
            self._slots += range(free * block_size, free * block_size + length)
            free = self._tables[-1].stop
        self.positions = torch.cat([torch.arange(length) for length in lengths]).to(operators.torch_device)
        layout = KVLayout(1, free, block_size, config.num_kv_heads, config.head_dim, dtype)
        self.attention = operators.attention_backend(layout, config.head_dim)
        self.storage = _OneLayer(layout, operators)

    def plans(self, part: slice) -> dict[int, object]:
        """By window, for these packed tokens: behind those before them, whose keys and values this layer has."""
        ends, lengths = self._ends, self._lengths
        here = [i for i, end in enumerate(ends) if part.start < end and end - lengths[i] < part.stop]
        firsts = [ends[i] - lengths[i] for i in here]
        lasts = [min(part.stop, ends[i]) for i in here]
        asked = AttentionLengths(
            [last - max(part.start, first) for first, last in zip(firsts, lasts, strict=True)],
            [last - first for first, last in zip(firsts, lasts, strict=True)],
            [self._tables[i] for i in here],
            self._slots[part],
            self._block_size,
        )
        return {window: self.attention.plan(asked, window) for window in self._windows}


class _OneLayer(KVStorage):
    """One layer is computed before the next begins, so one after the other they may use the same place."""

    def layer(self, index: int) -> torch.Tensor:
        return super().layer(0)
