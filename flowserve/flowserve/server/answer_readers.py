"""How a chat's text is read: as the model pleases (`flowserve.answer.AnswerStream`), or as a grammar made it.

A reader is fed the text as it comes and returns the events that became certain, for streams and whole answers alike.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any, Protocol

from ..tool_calls.events import AnswerEvent, ArgumentsDelta, CallEnd, CallEvent, CallStart, TextDelta


class AnswerReader(Protocol):
    def feed(self, text: str) -> list[AnswerEvent]: ...

    def finish(self) -> list[AnswerEvent]: ...


class FirstCallReader:
    """Another reader's events without the calls after the first, for clients that take one at a time."""

    def __init__(self, reader: AnswerReader) -> None:
        self._reader = reader

    def feed(self, text: str) -> list[AnswerEvent]:
        return _without_later_calls(self._reader.feed(text))

    def finish(self) -> list[AnswerEvent]:
        return _without_later_calls(self._reader.finish())


class NamedCallReader:
    """The text is the arguments of one call, held to their schema by a grammar; they stream as they come."""

    def __init__(self, name: str) -> None:
        self._name = name
        self._has_begun = False

    def feed(self, text: str) -> list[AnswerEvent]:
        if not text:
            return []
        arguments = ArgumentsDelta(0, text)
        if self._has_begun:
            return [arguments]
        self._has_begun = True
        return [CallStart(0, self._name), arguments]

    def finish(self) -> list[AnswerEvent]:
        return [CallEnd(0)] if self._has_begun else []


class RequiredCallsReader:
    """The text is a JSON list of calls, held to `required_schema` by a grammar; each leaves when it is complete."""

    def __init__(self) -> None:
        self._text = ""
        self._read = 0
        self._num_calls = 0

    def feed(self, text: str) -> list[AnswerEvent]:
        self._text += text
        events: list[AnswerEvent] = []
        while "}" in text and (call := self._next_call()):
            events += call
        return events

    def finish(self) -> list[AnswerEvent]:
        """A call that was cut off is text: its arguments would be no JSON."""
        rest = self._text[self._read :].strip("[], \n")
        return [TextDelta(rest)] if rest else []

    def _next_call(self) -> list[AnswerEvent]:
        start = self._text.find("{", self._read)
        if start < 0:
            return []
        try:
            value, self._read = json.JSONDecoder().raw_decode(self._text, start)
        except (ValueError, RecursionError):
            return []
        index, self._num_calls = self._num_calls, self._num_calls + 1
        arguments = json.dumps(value["parameters"], ensure_ascii=False)
        return [CallStart(index, value["name"]), ArgumentsDelta(index, arguments), CallEnd(index)]


def required_schema(functions: Sequence[dict[str, Any]], max_calls: int | None) -> dict[str, Any]:
    """JSON schema of a list of at least one call of these functions (each with name and maybe parameters)."""
    items = {"anyOf": [_call_schema(function) for function in functions]}
    schema: dict[str, Any] = {"type": "array", "minItems": 1, "items": items}
    return schema if max_calls is None else {**schema, "maxItems": max_calls}


def parameters_schema(function: dict[str, Any]) -> dict[str, Any]:
    return function.get("parameters") or {"type": "object", "properties": {}, "additionalProperties": False}


def _call_schema(function: dict[str, Any]) -> dict[str, Any]:
    return {
        "type": "object",
        "properties": {"name": {"const": function["name"]}, "parameters": parameters_schema(function)},
        "required": ["name", "parameters"],
        "additionalProperties": False,
    }


def _without_later_calls(events: list[AnswerEvent]) -> list[AnswerEvent]:
    return [event for event in events if not isinstance(event, CallEvent) or event.index == 0]
