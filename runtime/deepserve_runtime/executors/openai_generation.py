"""The engine pod's half of the OpenAI API: what comes out of its sequences, as bytes for the client."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

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
from deepserve_runtime.executors.generation import MAX_UNSAID
from deepserve_runtime.executors.journal import Journal
from deepserve_runtime.executors.values import convert, encode
from deepserve_runtime.task import Task

PRIORITIES = 1 << 32
"""That clients may tell apart."""


class OpenAIGeneration:
    """All completions of one request, on their way to its client: joined where the client reads slowly.

    See `generation.Generation`, which is the same for requests of the SDK.
    """

    def __init__(
        self,
        task: Task,
        answer: Answer,
        requests: Sequence[SequenceRequest],
        journal: Journal,
        context: PromptContext | None = None,
    ) -> None:
        """context: the stored start of the only prompt."""
        self.task = task
        self.context = context
        self.requests = requests
        self.journal = journal
        self.sequence_ids: list[str] = []
        """Of the prompts in the engine."""
        self._answer = answer
        self._firsts = [sum(each.params.n for each in requests[:number]) for number in range(len(requests))]
        self._outboxes = [Outbox() for request in requests for _ in range(request.params.n)]
        self._num_unfinished = len(self._outboxes)
        self._prompt_tokens: dict[str, int] = {}
        self._output_tokens: dict[int, int] = {}
        self._cached_tokens: dict[str, int] = {}
        self._has_begun = task.assignment.resume_offset > 0
        self._resuming = set(journal.written)
        """Completions that were begun elsewhere, and whose first output here tells what was said there."""
        self._is_told = False
        """The client has got its last words from an earlier attempt."""
        self._is_behind = False
        """Something waits for the client's room."""

    @classmethod
    def of_task(cls, task: Task, given: object, model: ServedModel) -> OpenAIGeneration:
        """Raises ApiError and FlowServe's errors."""
        prompts = convert(given, OpenAIPrompts)
        answer = openai_prompts.make_answer(task.assignment.method, prompts.body, model)
        # The template has been rendered in the tokenizer's pod.
        asked = answer.sequences([Prompt(each.text, token_ids=each.token_ids) for each in prompts.prompts])
        requests = [replace(each, priority=priority_of(prompts.turn, each.priority)) for each in asked]
        journal = Journal(task.assignment.journal)
        answer.identify(journal.answer_id(), journal.created_s, journal.place)
        return cls(task, answer, _resumed(requests, journal), journal, prompts.context)

    @property
    def is_complete(self) -> bool:
        """The engine is done with it; its last words may still wait for the reader."""
        return not self._num_unfinished

    def outputs(self, number: int) -> list[list[int]]:
        """What the completions of one prompt have put out before."""
        return self.journal.outputs(self._firsts[number], self.requests[number].params.n)

    def receive(self, output: SequenceOutput) -> None:
        index = self._firsts[self.sequence_ids.index(output.sequence_id)] + output.index
        self._prompt_tokens[output.sequence_id] = output.num_prompt_tokens
        if not output.index:  # the others share its prompt
            self._cached_tokens[output.sequence_id] = output.num_cached_tokens
        self._output_tokens[index] = output.num_output_tokens
        if output.finished:
            self._num_unfinished -= 1
        if index in self._resuming:
            self._resume(index, output)
        else:
            self.journal.add(output.token_ids, index, output.logprobs or (), output.prompt_logprobs)
            self._outboxes[index].put(output)

    def _resume(self, index: int, output: SequenceOutput) -> None:
        """The first output of a completion that was begun elsewhere. Of a stream the client has its events already."""
        self._resuming.remove(index)
        written = self.journal.written[index]
        logprobs = tuple(written.logprobs) or None
        self._outboxes[index].put(output._replace(logprobs=logprobs, prompt_logprobs=written.prompt_logprobs))
        if self._answer.is_stream and (piece := self._outboxes[index].take()) is not None:
            self._answer.skip([(index, piece)])
            self._is_told = self.is_complete

    def flush(self) -> bool:
        """Sends what may be sent; True once the outcome is out. Raises ApiError."""
        self._is_behind = not self.task.may_send
        if self._is_behind:
            return False
        taken = [(index, outbox.take()) for index, outbox in enumerate(self._outboxes)]
        pieces = [(index, piece) for index, piece in taken if piece is not None]
        if self._answer.is_stream:
            written = b"" if self._has_begun else self._answer.first_events()
            self._has_begun = True
            written += self._answer.events(pieces) if pieces else b""
            if self.is_complete and not self._is_told:
                written += self._answer.last_events()
        else:
            self._answer.keep(pieces)
            written = self._answer.body() if self.is_complete else b""
        if written:
            openai_prompts.emit(self.task, written, self.journal.take(self._answer.place))
        elif self.journal.num_unsaid >= MAX_UNSAID:
            self.task.note(self.journal.take(self._answer.place))
        if self.is_complete:
            self.task.finish(*encode(self._usage()))
        return self.is_complete

    def leave(self) -> None:
        """Another pod goes on behind what the client has; what it has no room for is made again there."""
        if self.journal.num_unsaid and not self._is_behind:
            self.task.note(self.journal.take(self._answer.place))
        self.task.release()

    def fail(self, error: Exception) -> None:
        openai_prompts.fail(self.task, error, self._answer.fields)

    def _usage(self) -> OpenAIUsage:
        counts = (self._prompt_tokens, self._output_tokens, self._cached_tokens)
        return OpenAIUsage(*(sum(count.values()) for count in counts))


def priority_of(turn: int, asked: int) -> int:
    """Of a sequence in the engine, the lower, the earlier: what a client asks for counts among those of one turn."""
    return turn * PRIORITIES + max(-PRIORITIES // 2, min(asked, PRIORITIES // 2 - 1))


def _resumed(requests: Sequence[SequenceRequest], journal: Journal) -> list[SequenceRequest]:
    """Drawn as in earlier attempts; what they told of the prompts is not computed again."""
    made, first = [], 0
    for number, request in enumerate(requests):
        params = request.params
        if params.seed is None:
            params = replace(params, seed=journal.seed + number)
        if first in journal.written and journal.written[first].prompt_logprobs is not None:
            params = replace(params, prompt_logprobs=None)
        made.append(replace(request, params=params))
        first += params.n
    return made
