"""DecoderStates: the hidden states of whole texts in a decoder, for embedding; no engine, nothing generated."""

from __future__ import annotations

from collections.abc import Sequence

import torch

from ..attention.base import AttentionLengths, KVLayout
from ..device.base import DeviceAdapter
from ..layers.attention import ForwardContext
from ..layers.rotary import RotaryTable
from ..rtc.storage import KVStorage
from .decoder import DecoderModel, MakeLinear
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
        table = RotaryTable(plan.config.rope, max_length)
        self._cos, self._sin = (
            torch.cat((half, half), dim=-1)[:, None].to(device.operators.torch_device, dtype)
            for half in (table.cos, table.sin)
        )

    def forward(self, token_ids: torch.Tensor, lengths: Sequence[int]) -> torch.Tensor:
        """token_ids [B, L], of which each row's first `lengths` count -> hidden states [B, L, d]."""
        inside = torch.arange(token_ids.shape[1]) < torch.tensor(list(lengths))[:, None]
        tables, slots, size = self._blocks(lengths)
        layout = KVLayout(1, sum(map(len, tables)), size, self._config.num_kv_heads, self._config.head_dim, self._dtype)
        attention = self._operators.attention_backend(layout, self._config.head_dim)
        plan = AttentionLengths(lengths, lengths, tables, slots, size)
        positions = torch.cat([torch.arange(length) for length in lengths]).to(self._operators.torch_device)
        context = ForwardContext(
            self._cos[positions],
            self._sin[positions],
            attention,
            {window: attention.plan(plan, window) for window in set(self._config.windows)},
            _OneLayer(layout, self._operators),
        )
        packed = self._model.forward(token_ids[inside.to(token_ids.device)], context)
        hidden = packed.new_zeros(*token_ids.shape, packed.shape[-1])
        hidden[inside.to(token_ids.device)] = packed
        return hidden

    def _blocks(self, lengths: Sequence[int]) -> tuple[list[range], list[int], int]:
        """Blocks of each text, all neighbours; the slots of all tokens; the block size."""
        size, free = self._block_size, 0
        tables: list[range] = []
        slots: list[int] = []
        for length in lengths:
            tables.append(range(free, free - (-length // size)))
            slots += range(free * size, free * size + length)
            free = tables[-1].stop
        return tables, slots, size


class _OneLayer(KVStorage):
    """Every layer stores and reads at once, so one after the other they may use the same place."""

    def layer(self, index: int) -> torch.Tensor:
        return super().layer(0)
