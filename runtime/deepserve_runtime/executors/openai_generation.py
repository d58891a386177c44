"""The engine pod's half of the OpenAI API: what comes out of its sequences, as bytes for the client."""

from __future__ import annotations

from collections.abc import Sequence

from deepserve.protocol.model_io import PromptContext
from deepserve.protocol.openai_io import OpenAIPrompts, OpenAIUsage
from deepserve_runtime.executors import openai_prompts
from deepserve_runtime.executors.flowserve_parts import (
    Answer,
    Outbox,
    Prompt,
    SequenceOutput,
    SequenceRequest,
    ServedModel,
)
from deepserve_runtime.executors.values import convert, encode
from deepserve_runtime.task import Task


class OpenAIGeneration:
    """All completions of one request, on their way to its client: joined where the client reads slowly.

    See `generation.Generation`, which is the same for requests of the SDK.
    """

    def __init__(
        self,
        task: Task,
        answer: Answer,
        requests: Sequence[SequenceRequest],
        context: PromptContext | None = None,
    ) -> None:
        """context: the stored start of the only prompt."""
        self.task = task
        self.context = context
        self.requests = requests
        self.sequence_ids: list[str] = []
        """Of the prompts in the engine."""
        self._answer = answer
        self._outboxes = [Outbox() for request in requests for _ in range(request.params.n)]
        self._num_unfinished = len(self._outboxes)
        self._prompt_tokens: dict[str, int] = {}
        self._output_tokens: dict[int, int] = {}
        self._cached_tokens: dict[str, int] = {}
        self._has_begun = False

    @classmethod
    def of_task(cls, task: Task, given: object, model: ServedModel) -> OpenAIGeneration:
        """Raises ApiError and FlowServe's errors."""
        prompts = convert(given, OpenAIPrompts)
        answer = openai_prompts.make_answer(task.assignment.method, prompts.body, model)
        # The template has been rendered in the tokenizer's pod.
        requests = answer.sequences([Prompt(each.text, token_ids=each.token_ids) for each in prompts.prompts])
        return cls(task, answer, requests, prompts.context)

    @property
    def is_complete(self) -> bool:
        """The engine is done with it; its last words may still wait for the reader."""
        return not self._num_unfinished

    def receive(self, output: SequenceOutput) -> None:
        sequence = self.sequence_ids.index(output.sequence_id)
        index = sum(request.params.n for request in self.requests[:sequence]) + output.index
        self._outboxes[index].put(output)
        self._prompt_tokens[output.sequence_id] = output.num_prompt_tokens
        if not output.index:  # the others share its prompt
            self._cached_tokens[output.sequence_id] = output.num_cached_tokens
        self._output_tokens[index] = output.num_output_tokens
        if output.finished:
            self._num_unfinished -= 1

    def flush(self) -> bool:
        """Sends what may be sent; True once the outcome is out. Raises ApiError."""
        if not self.task.may_send:
            return False
        taken = [(index, outbox.take()) for index, outbox in enumerate(self._outboxes)]
        pieces = [(index, piece) for index, piece in taken if piece is not None]
        if self._answer.is_stream:
            written = b"" if self._has_begun else self._answer.first_events()
            self._has_begun = True
            written += self._answer.events(pieces) if pieces else b""
            if self.is_complete:
                written += self._answer.last_events()
        else:
            self._answer.keep(pieces)
            written = self._answer.body() if self.is_complete else b""
        if written:
            openai_prompts.emit(self.task, written)
        if self.is_complete:
            self.task.finish(*encode(self._usage()))
        return self.is_complete

    def fail(self, error: Exception) -> None:
        openai_prompts.fail(self.task, error, self._answer.fields)

    def _usage(self) -> OpenAIUsage:
        counts = (self._prompt_tokens, self._output_tokens, self._cached_tokens)
        return OpenAIUsage(*(sum(count.values()) for count in counts))
