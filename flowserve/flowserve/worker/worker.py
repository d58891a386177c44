"""Worker: one rank. It is told about sequences once, then gets batches of lengths and answers with sampled tokens."""

from __future__ import annotations

import torch

from ..device.base import Runner
from ..scheduling.batch import Batch, ScheduledSequence
from .sampler import SampledToken
from .sampler_state import SamplerState
from .verification import sample_batch


class Worker:
    """Token values live here, so that batches carry lengths only (DeepServe 2.6 b)."""

    def __init__(self, runner: Runner) -> None:
        self._runner = runner
        self._states: dict[str, SamplerState] = {}

    def add(self, sequence_id: str, state: SamplerState) -> None:
        """Hold a sequence until `remove`, through preemptions too."""
        self._states[sequence_id] = state

    def remove(self, sequence_id: str) -> None:
        self._states.pop(sequence_id, None)

    def draft(self) -> dict[str, int]:
        """Guess what comes next; for each sequence with a guess its length. To be called when all tokens are known."""
        return {sequence_id: count for sequence_id, state in self._states.items() if (count := state.draft())}

    def execute(self, batch: Batch) -> dict[str, list[SampledToken]]:
        """Compute the batch's tokens; for each entry that samples its new tokens, more than one where drafts hit."""
        with torch.inference_mode():
            tokens = {entry.sequence_id: self._tokens(entry) for entry in batch.sequences}
            step = self._runner.run(batch, tokens)
            return sample_batch(batch, step.values, self._states, step.best)

    def _tokens(self, entry: ScheduledSequence) -> list[int]:
        state = self._states[entry.sequence_id]
        return state.tokens + state.drafts[: entry.num_drafts] if entry.num_drafts else state.tokens
