"""Worker: one rank. It is told about sequences once, then gets batches of lengths and answers with sampled tokens."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass, replace

import torch

from ..device.base import Runner
from ..scheduling.batch import Batch
from .sampler import SampledToken
from .sampler_state import SamplerState
from .verification import add_hidden, sample_batch


@dataclass(slots=True)
class _Held:
    """A sequence, and whether its last token is known here already, before the engine has read it."""

    sequence_id: str
    state: SamplerState
    end_token_ids: Collection[int]
    is_over: bool = False


class Worker:
    """Token values live here, so that batches carry lengths only (DeepServe 2.6 b).

    `execute` may run in another thread than `add` and `remove`, one step at a time.
    """

    def __init__(self, runner: Runner) -> None:
        self._runner: Runner | None = runner
        self._held: dict[int, _Held] = {}

    def take(self, runner: Runner | None) -> None:
        """Compute with another runner from now on; None while the engine sleeps. No step may be running."""
        self._runner = runner

    def add(self, sequence_id: str, arrival: int, state: SamplerState, end_token_ids: Collection[int] = ()) -> None:
        """Hold a sequence until `remove`, through preemptions too. `end_token_ids` end it."""
        self._held[arrival] = _Held(sequence_id, state, end_token_ids)

    def remove(self, arrival: int) -> None:
        """What is planned for the sequence and has not begun is left out."""
        self._held.pop(arrival, None)

    def draft(self) -> dict[str, int]:
        """Guess what comes next; for each sequence with a guess its length. To be called when all tokens are known."""
        return {one.sequence_id: count for one in self._held.values() if (count := one.state.draft())}

    def execute(self, batch: Batch) -> dict[str, list[SampledToken]]:
        """Compute the batch's tokens; for each entry that samples its new tokens, more than one where drafts hit.

        Sequences that are removed or over are left out: the batch was planned before that was known. After an error,
        all that were in it count as over, for nobody knows how far each of them came.
        """
        runner = self._runner
        assert runner is not None, "the engine sleeps"
        held: dict[str, _Held] = {}
        try:
            for source, target in batch.copies:
                runner.storage.copy_block(source, target)
            states: dict[str, SamplerState] = {}
            wants_hidden = False
            tokens: dict[str, list[int]] = {}
            for entry in batch.sequences:
                one = self._held.get(entry.arrival)
                if one is not None and not one.is_over:
                    state = states[entry.sequence_id] = one.state
                    held[entry.sequence_id] = one
                    wants_hidden = wants_hidden or state.wants_hidden
                    known, num_drafts = state.tokens, entry.num_drafts
                    tokens[entry.sequence_id] = known + state.drafts[:num_drafts] if num_drafts else known
            going_on = batch
            if len(held) < len(batch.sequences):
                going_on = replace(batch, sequences=tuple(one for one in batch.sequences if one.sequence_id in held))
            if not going_on:
                return {}
            with torch.inference_mode():
                # Not told of where nobody asks: that is in nearly all steps.
                step = runner.run(going_on, tokens, True) if wants_hidden else runner.run(going_on, tokens)
                sampled = sample_batch(going_on, step.values, states, step.best)
                if step.hidden is not None:
                    add_hidden(going_on, step.hidden, states, sampled)
        except BaseException:
            for entry in batch.sequences:
                if (one := self._held.get(entry.arrival)) is not None:
                    one.is_over = True
            raise
        for sequence_id, new_tokens in sampled.items():
            one = held[sequence_id]
            for token in new_tokens:
                if token.token_id in one.end_token_ids or token.grammar_done or token.error is not None:
                    one.is_over = True
        return sampled
