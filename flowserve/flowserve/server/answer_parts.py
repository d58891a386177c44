"""What a chat's text is made of: content, reasoning, tool calls. One way for streams and whole answers.

A reader is fed the text as it comes and returns the parts that became certain.
"""

from __future__ import annotations

import json
import secrets
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Protocol

from ..tool_calls import ContentDelta, MalformedToolCall, ToolCall, ToolCallEvent, ToolCallStream


@dataclass(frozen=True, slots=True)
class ContentPart:
    text: str


@dataclass(frozen=True, slots=True)
class CallPart:
    """The start of a call (with id and name), or more of its arguments (without)."""

    index: int
    arguments: str
    id: str | None = None
    name: str | None = None


Part = ContentPart | CallPart


class AnswerReader(Protocol):
    def feed(self, text: str) -> list[Part]: ...

    def finish(self) -> list[Part]: ...


class PlainReader:
    """All of it is content."""

    def feed(self, text: str) -> list[Part]:
        return [ContentPart(text)] if text else []

    def finish(self) -> list[Part]:
        return []


class ToolCallReader:
    """Content with calls in the model's own format, where it chose to make some.

    What is no call although it is marked as one stays content: the client sees what the model wrote.
    """

    def __init__(self, max_calls: int | None) -> None:
        self._stream = ToolCallStream()
        self._max_calls = max_calls
        self._num_calls = 0

    def feed(self, text: str) -> list[Part]:
        return self._parts(self._stream.feed(text))

    def finish(self) -> list[Part]:
        return self._parts(self._stream.finish())

    def _parts(self, events: list[ToolCallEvent]) -> list[Part]:
        parts: list[Part] = []
        for event in events:
            if isinstance(event, ContentDelta | MalformedToolCall):
                parts.append(ContentPart(event.text))
            elif self._max_calls is None or self._num_calls < self._max_calls:
                parts.append(_whole_call(self._num_calls, event))
                self._num_calls += 1
        return parts


class NamedCallReader:
    """The text is the arguments of one call, held to their schema by a grammar; they stream as they come."""

    def __init__(self, name: str) -> None:
        self._name: str | None = name

    def feed(self, text: str) -> list[Part]:
        if not text:
            return []
        if self._name is None:
            return [CallPart(0, text)]
        name, self._name = self._name, None
        return [CallPart(0, text, call_id(), name)]

    def finish(self) -> list[Part]:
        return []


class RequiredCallsReader:
    """The text is a JSON list of calls, held to `required_schema` by a grammar; each leaves when it is complete."""

    def __init__(self) -> None:
        self._text = ""
        self._read = 0
        self._num_calls = 0

    def feed(self, text: str) -> list[Part]:
        self._text += text
        parts: list[Part] = []
        while "}" in text and (part := self._next_call()) is not None:
            parts.append(part)
        return parts

    def finish(self) -> list[Part]:
        """A call that was cut off is content: its arguments would be no JSON."""
        rest = self._text[self._read :].strip("[], \n")
        return [ContentPart(rest)] if rest else []

    def _next_call(self) -> Part | None:
        start = self._text.find("{", self._read)
        if start < 0:
            return None
        try:
            value, self._read = json.JSONDecoder().raw_decode(self._text, start)
        except (ValueError, RecursionError):
            return None
        self._num_calls += 1
        return _whole_call(self._num_calls - 1, ToolCall(value["name"], value["parameters"]))


def required_schema(tools: Sequence[dict[str, Any]], max_calls: int | None) -> dict[str, Any]:
    """JSON schema of a list of at least one call of these functions (each with name and maybe parameters)."""
    schema: dict[str, Any] = {"type": "array", "minItems": 1, "items": {"anyOf": [_call_schema(t) for t in tools]}}
    return schema if max_calls is None else {**schema, "maxItems": max_calls}


def parameters_schema(function: dict[str, Any]) -> dict[str, Any]:
    return function.get("parameters") or {"type": "object", "properties": {}, "additionalProperties": False}


def call_id() -> str:
    return f"call_{secrets.token_hex(12)}"


def _call_schema(function: dict[str, Any]) -> dict[str, Any]:
    return {
        "type": "object",
        "properties": {"name": {"const": function["name"]}, "parameters": parameters_schema(function)},
        "required": ["name", "parameters"],
        "additionalProperties": False,
    }


def _whole_call(index: int, call: ToolCall) -> CallPart:
    # Models may write escapes that are halves of characters: those stay escapes, in ASCII.
    arguments = json.dumps(call.arguments, ensure_ascii=False)
    if not _is_utf8(arguments):
        arguments = json.dumps(call.arguments)
    name = call.name if _is_utf8(call.name) else call.name.encode("utf-8", "replace").decode()
    return CallPart(index, arguments, call_id(), name)


def _is_utf8(text: str) -> bool:
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True
