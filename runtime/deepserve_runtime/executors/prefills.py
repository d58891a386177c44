"""Prefills: sequences that run elsewhere and may come here, computed ahead so that they need not be when they come."""

from __future__ import annotations

import queue
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import msgspec

from deepserve.protocol.messages import PrepareTask, TaskPrepared
from deepserve.protocol.model_io import TokenizedPrompt
from deepserve.protocol.openai_io import GENERATION_METHODS, OpenAIPrompts
from deepserve_runtime.error_outcome import describe
from deepserve_runtime.executors.flowserve_parts import SamplingParams, SequenceOutput, UnknownSequenceError
from deepserve_runtime.executors.journal import Journal

Reply = Callable[[TaskPrepared], object]
ONE_TOKEN = SamplingParams(max_tokens=1, temperature=0.0, detokenize=False, ignore_eos=True)


@dataclass(slots=True, eq=False)
class _Asked:
    message: PrepareTask
    payload: bytes
    reply: Reply
    running: set[str] = field(default_factory=set)
    error: str = ""

    def answer(self, error: str) -> None:
        self.reply(TaskPrepared(self.message.task_id, self.message.round, error))


class _Body(msgspec.Struct):
    """What of an OpenAI client's request says how its sequences are computed."""

    n: int | None = None
    cache_salt: str | None = None


class _Sequence(NamedTuple):
    token_ids: list[int]
    cache_salt: str | None = None


class Prefills:
    """Each completion is a sequence of one output token: what it leaves in the prefix cache is all that is wanted."""

    def __init__(self) -> None:
        self._asked: queue.SimpleQueue[_Asked] = queue.SimpleQueue()
        self._running: dict[str, _Asked] = {}
        """By sequence id."""

    def ask(self, message: PrepareTask, payload: bytes, reply: Reply) -> None:
        """From any thread."""
        self._asked.put(_Asked(message, payload, reply))

    def start(self, engine: Any) -> None:
        while not self._asked.empty():
            asked = self._asked.get()
            if engine.is_sleeping:  # nobody has a claim to its memory before the task comes, and computes all of it
                asked.answer("")
                continue
            try:
                self._add(engine, asked)
            except Exception as error:  # it does not fit here, or no more: then it stays where it is
                self._drop(engine, asked)
                asked.answer(describe(error))

    def _add(self, engine: Any, asked: _Asked) -> None:
        message = asked.message
        for number, sequence in enumerate(_sequences(message, asked.payload)):
            sequence_id = f"prefill {message.task_id} {message.round} {number}"
            engine.add(sequence_id, sequence.token_ids, ONE_TOKEN, cache_salt=sequence.cache_salt)
            asked.running.add(sequence_id)
            self._running[sequence_id] = asked

    def take(self, output: SequenceOutput) -> bool:
        """Whether the output is of one of these."""
        asked = self._running.get(output.sequence_id)
        if asked is not None and output.finished:
            del self._running[output.sequence_id]
            asked.running.remove(output.sequence_id)
            asked.error = asked.error or output.error or ""
            if not asked.running:
                asked.answer(asked.error)
        return asked is not None

    def fail(self, engine: Any, text: str) -> None:
        for asked in {id(each): each for each in self._running.values()}.values():
            self._drop(engine, asked)
            asked.answer(text)

    def _drop(self, engine: Any, asked: _Asked) -> None:
        for sequence_id in asked.running:
            del self._running[sequence_id]
            with suppress(UnknownSequenceError):
                engine.abort(sequence_id)
        asked.running.clear()


def _sequences(message: PrepareTask, payload: bytes) -> list[_Sequence]:
    """Prompts with what their completions have put out; the prompts alone where that is nothing yet."""
    if message.method in GENERATION_METHODS:
        asked = msgspec.msgpack.decode(payload, type=OpenAIPrompts)
        body = msgspec.json.decode(asked.body, type=_Body)
        prompts, n, salt = [prompt.token_ids for prompt in asked.prompts], body.n or 1, body.cache_salt
    else:
        prompt = msgspec.msgpack.decode(payload, type=TokenizedPrompt)
        prompts, n, salt = [prompt.token_ids], prompt.params.n or 1, None
    written = sorted(Journal(message.journal).written.items())
    begun = [_Sequence(prompts[index // n] + each.token_ids, salt) for index, each in written]
    return begun or [_Sequence(prompt, salt) for prompt in prompts]
