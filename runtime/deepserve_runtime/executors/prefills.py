"""Prefills: sequences that run elsewhere and may come here, computed ahead so that they need not be when they come."""

from __future__ import annotations

import queue
from collections.abc import Callable
from typing import Any, NamedTuple

import msgspec

from deepserve.protocol.messages import PrepareTask, TaskPrepared
from deepserve.protocol.model_io import TokenizedPrompt
from deepserve.protocol.openai_io import GENERATION_METHODS, OpenAIPrompts
from deepserve_runtime.executors.flowserve_parts import SamplingParams, SequenceOutput, UnknownSequenceError
from deepserve_runtime.executors.journal import Journal
from deepserve_runtime.task import describe

Reply = Callable[[TaskPrepared], object]
ONE_TOKEN = SamplingParams(max_tokens=1, temperature=0.0, detokenize=False, ignore_eos=True)


class _Asked(NamedTuple):
    message: PrepareTask
    payload: bytes
    reply: Reply


class Prefills:
    """Each is a sequence of one output token: what it leaves in the prefix cache is all that is wanted of it."""

    def __init__(self) -> None:
        self._asked: queue.SimpleQueue[_Asked] = queue.SimpleQueue()
        self._running: dict[str, _Asked] = {}

    def ask(self, message: PrepareTask, payload: bytes, reply: Reply) -> None:
        """From any thread."""
        self._asked.put(_Asked(message, payload, reply))

    def start(self, engine: Any) -> None:
        while not self._asked.empty():
            asked = self._asked.get()
            message = asked.message
            if engine.is_sleeping:  # nobody has a claim to its memory before the task comes, and computes all of it
                self._answer(asked, "")
                continue
            sequence_id = f"prefill {message.task_id} {message.round}"
            try:
                prompt_ids = _prompt_ids(message.method, asked.payload)
                engine.add(sequence_id, prompt_ids + Journal(message.journal).token_ids, ONE_TOKEN)
            except Exception as error:  # it does not fit here, or no more: then it stays where it is
                self._answer(asked, describe(error))
            else:
                self._running[sequence_id] = asked

    def take(self, output: SequenceOutput) -> bool:
        """Whether the output is of one of these."""
        asked = self._running.get(output.sequence_id)
        if asked is not None and output.finished:
            del self._running[output.sequence_id]
            self._answer(asked, output.error or "")
        return asked is not None

    def fail(self, engine: Any, text: str) -> None:
        for sequence_id, asked in self._running.items():
            try:
                engine.abort(sequence_id)
            except UnknownSequenceError:
                pass
            self._answer(asked, text)
        self._running.clear()

    @staticmethod
    def _answer(asked: _Asked, error: str) -> None:
        asked.reply(TaskPrepared(asked.message.task_id, asked.message.round, error))


def _prompt_ids(method: str, payload: bytes) -> list[int]:
    """Of the one sequence of a task that can move."""
    if method in GENERATION_METHODS:
        return msgspec.msgpack.decode(payload, type=OpenAIPrompts).prompts[0].token_ids
    return msgspec.msgpack.decode(payload, type=TokenizedPrompt).token_ids
