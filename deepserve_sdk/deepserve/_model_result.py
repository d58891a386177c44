"""What a model's answer is to the caller."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Generic, TypeVar

from deepserve.protocol.model_io import Generated, ToolCall

T = TypeVar("T")


@dataclass(frozen=True)
class Usage:
    """Tokens of one request."""

    prompt_tokens: int
    completion_tokens: int

    @property
    def total_tokens(self) -> int:
        return self.prompt_tokens + self.completion_tokens


@dataclass(frozen=True)
class ChatResult(Generic[T]):
    """One answer of `llm.chat`.

    text: as the model wrote it. output: in the asked output_type, the text without one. finish_reason: `stop`,
    `length` (cut off at max_tokens or at the end of the context) or `tool_calls`. tool_calls: what the model wants
    called, with arguments as a dict; `malformed_calls` are texts that were meant as calls and are none.
    """

    text: str
    output: T
    finish_reason: str
    usage: Usage
    tool_calls: tuple[ToolCall, ...] = ()
    malformed_calls: tuple[str, ...] = ()

    @property
    def message(self) -> dict[str, Any]:
        """This answer as the next of the messages (OpenAI's shape), for a dialogue that goes on."""
        return _message(self.text, self.tool_calls, self.malformed_calls)


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
