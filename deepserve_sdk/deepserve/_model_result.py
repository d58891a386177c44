"""What a model's answer is to the caller."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Generic, TypeVar

from deepserve.protocol.model_io import Generated, TokenLogprob, ToolCall

T = TypeVar("T")


@dataclass(frozen=True)
class Usage:
    """Tokens of one request. cached_tokens: those of the prompt whose KV was there already."""

    prompt_tokens: int
    completion_tokens: int
    cached_tokens: int = 0

    @property
    def total_tokens(self) -> int:
        return self.prompt_tokens + self.completion_tokens


@dataclass(frozen=True)
class ChatResult(Generic[T]):
    """One answer of `llm.chat`.

    text: as the model wrote it. output: in the asked output_type, the text without one. finish_reason: `stop`,
    `length` (cut off at max_tokens or at the end of the context) or `tool_calls`. tool_calls: what the model wants
    called, with arguments as a dict; `malformed_calls` are texts that were meant as calls and are none. logprobs: of
    each token, where they were asked for. others: with n, the answers after this one; usage is that of all together.
    """

    text: str
    output: T
    finish_reason: str
    usage: Usage
    tool_calls: tuple[ToolCall, ...] = ()
    malformed_calls: tuple[str, ...] = ()
    logprobs: tuple[TokenLogprob, ...] | None = None
    others: tuple[ChatResult[T], ...] = ()

    @property
    def choices(self) -> tuple[ChatResult[T], ...]:
        """All n answers, this one first."""
        return (self, *self.others)

    @property
    def message(self) -> dict[str, Any]:
        """This answer as the next of the messages (OpenAI's shape), for a dialogue that goes on."""
        return _message(self.text, self.tool_calls, self.malformed_calls)


class GeneratedText(str):
    """What `llm.generate` returns where `n` or `logprobs` are given: a text like any other, and what is told of it.

    finish_reason: `stop` or `length`. logprobs: of each token, None where they were not asked for. choices: all n
    texts, this one first; usage is that of all together.
    """

    finish_reason: str
    usage: Usage
    logprobs: tuple[TokenLogprob, ...] | None
    others: tuple[GeneratedText, ...]

    def __new__(
        cls,
        text: str,
        finish_reason: str,
        usage: Usage,
        logprobs: tuple[TokenLogprob, ...] | None = None,
        others: tuple[GeneratedText, ...] = (),
    ) -> GeneratedText:
        made = super().__new__(cls, text)
        made.finish_reason, made.usage, made.logprobs, made.others = finish_reason, usage, logprobs, others
        return made

    @property
    def choices(self) -> tuple[GeneratedText, ...]:
        return (self, *self.others)

    def __reduce__(self) -> tuple[Any, ...]:
        return GeneratedText, (str(self), self.finish_reason, self.usage, self.logprobs, self.others)


def usage_of(generated: Generated) -> Usage:
    """Of all answers together: they share the prompt."""
    tokens = sum(each.completion_tokens for each in (generated, *generated.others))
    return Usage(generated.prompt_tokens, tokens, generated.cached_tokens)


def assistant_message(generated: Generated, calls: Sequence[ToolCall]) -> dict[str, Any]:
    """What the model said as a message; `calls` are its calls under their final ids."""
    return _message(generated.text, calls, generated.malformed_calls)


def _message(text: str, calls: Sequence[ToolCall], malformed: Sequence[str]) -> dict[str, Any]:
    # What was malformed stands in the dialogue as the model wrote it, or it would not know what is meant.
    message: dict[str, Any] = {"role": "assistant", "content": "\n".join(part for part in (text, *malformed) if part)}
    if calls:
        message["tool_calls"] = [
            {
                "id": call.id,
                "type": "function",
                "function": {"name": call.name, "arguments": json.dumps(call.arguments, ensure_ascii=False)},
            }
            for call in calls
        ]
    return message
