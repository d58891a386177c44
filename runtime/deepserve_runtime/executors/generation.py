"""The sequences of one request on their way to the reader: tokens are merged where the reader is slow.

Each item takes along the tokens that it and those before it follow from (`Journal`): where an item has arrived, another
pod can go on with the next one, for both arrive in one frame.
"""

from __future__ import annotations

from collections.abc import Sequence

import msgspec

from deepserve.protocol.model_io import Generated, PromptContext
from deepserve_runtime.executors.completion import GrowingCompletion
from deepserve_runtime.executors.flowserve_parts import SequenceOutput
from deepserve_runtime.executors.journal import Journal
from deepserve_runtime.executors.values import encode
from deepserve_runtime.task import Task

MAX_UNSAID = 32
"""Tokens that a lost pod takes with it, where they give the reader nothing."""


class Generation:
    """completions: all of the one prompt; of a stream there is one.  context: the stored start of the prompt, where
    there is one, or what it is to become."""

    def __init__(
        self,
        task: Task,
        completions: Sequence[GrowingCompletion],
        journal: Journal | None = None,
        context: PromptContext | None = None,
    ) -> None:
        self.task = task
        self.context = context
        self.sequence_ids: list[str] = []
        """Its one sequence, once it is in the engine."""
        self.journal = journal or Journal()
        self._completions = completions
        self._resuming = set(self.journal.written)
        """Completions that were begun elsewhere, and whose first output here tells what was said there."""

    def outputs(self, number: int) -> list[list[int]]:
        """What its completions have put out before."""
        return self.journal.outputs(0, len(self._completions))

    @property
    def is_complete(self) -> bool:
        """The engine is done with it; its outcome may still wait for the reader."""
        return all(each.generated is not None for each in self._completions)

    def receive(self, output: SequenceOutput) -> None:
        index = output.index
        completion = self._completions[index]
        if index in self._resuming:
            completion.add(output.text, self.journal.written[index].logprobs)
        else:
            self.journal.add(output.token_ids, index, output.logprobs or ())
            completion.add(output.text, output.logprobs or ())
        if output.finished:
            counts = output.num_prompt_tokens, output.num_output_tokens, output.num_cached_tokens
            completion.complete(output.finish_reason or "stop", *counts)
        if index in self._resuming:  # the reader has it already
            self._resuming.remove(index)
            completion.take_delta()

    def flush(self) -> bool:
        """Sends what may be sent; True once the outcome is out."""
        if self._is_behind:
            if not self.task.may_send:
                return False
            self.task.emit(*encode(self._completions[0].take_delta()), self.journal.take())
        if not self.is_complete:
            if self.journal.num_unsaid >= MAX_UNSAID:
                self.task.note(self.journal.take())
            return False
        self.task.finish(*encode(self._generated()))
        return True

    def leave(self) -> None:
        """Another pod goes on behind what the reader has; what it has no room for is made again there."""
        if self.journal.num_unsaid and not self._is_behind:
            self.task.note(self.journal.take())
        self.task.release()

    @property
    def _is_behind(self) -> bool:
        """Something waits to be sent."""
        return self.task.assignment.kind == "stream" and self._completions[0].has_pending

    def _generated(self) -> Generated:
        first, *others = [each.generated for each in self._completions if each.generated is not None]
        return msgspec.structs.replace(first, others=others)
