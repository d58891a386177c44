"""Worker: one rank. It is told about sequences once, then gets batches of lengths and answers with sampled tokens."""

from __future__ import annotations

import torch

from ..attention.base import KVLayout
from ..models.loader import LoadedModel
from ..rtc.storage import KVStorage
from ..scheduling.batch import Batch
from .model_runner import ModelRunner
from .sampler import SampledToken
from .sampler_state import SamplerState
from .verification import sample_batch


class Worker:
    """Token values live here, so that batches carry lengths only (DeepServe 2.6 b)."""

    def __init__(self, loaded: LoadedModel, layout: KVLayout, max_model_len: int) -> None:
        self._storage = KVStorage(layout, loaded.device)
        self._runner = ModelRunner(loaded, self._storage, max_model_len)
        self._states: dict[str, SamplerState] = {}

    def add(self, sequence_id: str, state: SamplerState) -> None:
        """Hold a sequence until `remove`, through preemptions too."""
        self._states[sequence_id] = state

    def remove(self, sequence_id: str) -> None:
        self._states.pop(sequence_id, None)

    def execute(self, batch: Batch) -> dict[str, list[SampledToken]]:
        """Compute the batch's tokens; for each entry that samples its new tokens, more than one where drafts hit."""
        with torch.inference_mode():
            tokens = {entry.sequence_id: self._states[entry.sequence_id].tokens for entry in batch.sequences}
            logits = self._runner.logits(batch, tokens)
            return sample_batch(batch, logits, self._states, {})
