"""ModelRunner: the Runner of models in torch operators."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch

from ..attention.base import AttentionLengths, KVLayout
from ..device.base import StepLogits
from ..errors import LoadingError
from ..layers.attention import ForwardContext
from ..layers.rotary import rotary_table
from ..models.decoder import DecoderModel
from ..models.decoder_arrival import DecoderArrival
from ..models.loader import LoadedModel
from ..rtc.storage import KVStorage
from ..scheduling.batch import Batch
from .inputs import build_inputs


class ModelRunner:
    """See Runner."""

    def __init__(self, loaded: LoadedModel, layout: KVLayout, max_model_len: int) -> None:
        self._arrival: DecoderArrival | None = None
        self._model: DecoderModel = loaded.weights
        operators = self._operators = loaded.device.operators
        self.storage = KVStorage(layout, operators)
        self._attention = operators.attention_backend(layout, loaded.config.head_dim)
        self._windows = set(loaded.config.windows)
        table = rotary_table(loaded.config.rope, max_model_len)
        self._cos, self._sin = (
            torch.cat((half, half), dim=-1)[:, None].to(operators.torch_device, loaded.dtype)
            for half in (table.cos, table.sin)
        )
        if not self._model.is_there:
            self._arrival = DecoderArrival.of_checkpoint(self._model)

    @property
    def num_threads(self) -> int:
        return torch.get_num_threads()

    def run(self, batch: Batch, tokens: Mapping[str, list[int]], wants_hidden: bool = False) -> StepLogits:
        size = self.storage.layout.block_size
        for entry in batch.sequences:
            begun = entry.end // size  # of blocks that a step fills whole nothing is hidden
            if entry.end % size and entry.start <= begun * size:
                self.storage.clear_block(entry.block_table[begun])
        inputs = build_inputs(batch, tokens, size)
        positions = self._operators.to_device(inputs.positions, torch.int64)
        context = ForwardContext(
            self._cos[positions],
            self._sin[positions],
            self._attention,
            self._attention_plans(inputs.lengths),
            self.storage,
        )
        token_ids = self._operators.to_device(inputs.token_ids, torch.int64)
        hidden = self._model.forward(token_ids, context, self._arrival.wait_for if self._arrival is not None else None)
        last = hidden[self._operators.to_device(inputs.logit_rows, torch.int64)]
        return StepLogits(self._model.logits(last), hidden=last.float() if wants_hidden else None)

    @property
    def is_arriving(self) -> bool:
        return self._arrival is not None and not self._model.is_there

    @property
    def loading_error(self) -> LoadingError | None:
        return None if self._arrival is None else self._arrival.error

    def close(self) -> None:
        if self._arrival is not None:
            self._arrival.close()

    def __del__(self) -> None:
        self.close()

    def _attention_plans(self, lengths: AttentionLengths) -> dict[int, Any]:
        """One for each window; windows that no sequence has outgrown share the plan without one."""
        longest = max(lengths.kv_lengths)
        binding = {window: window if window < longest else 0 for window in self._windows}
        plans = {window: self._attention.plan(lengths, window) for window in set(binding.values())}
        return {window: plans[bound] for window, bound in binding.items()}
