"""How a chat's text is read: as the model pleases (`flowserve.answer.AnswerStream`), or as a grammar made it.

A reader is fed the text as it comes and returns the events that became certain, for streams and whole answers alike.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Protocol

from ..tool_calls.events import AnswerEvent, ArgumentsDelta, CallEnd, CallEvent, CallStart
from ..tool_calls.json_call import JsonCall


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
    """The text is a JSON list of calls, held to `required_schema` by a grammar; their arguments stream as they come.

    Where the text ends inside a call, its arguments are what has come; before its name is known it is nothing.
    """

    def __init__(self) -> None:
        self._call: JsonCall | None = None
        self._num_calls = 0

    def feed(self, text: str) -> list[AnswerEvent]:
        events: list[AnswerEvent] = []
        while self._call is not None or (text := text.lstrip("[], \n\r\t")):
            call = self._call = self._call or JsonCall(self._num_calls)
            events += call.feed(text)
            if not call.is_over:
                return events
            self._call, text = None, call.rest
            self._num_calls += 1
        return events

    def finish(self) -> list[AnswerEvent]:
        return list(self._call.break_off()) if self._call is not None else []


def required_schema(functions: Sequence[dict[str, Any]], max_calls: int | None) -> dict[str, Any]:
    """JSON schema of a list of at least one call of these functions (each with name and maybe parameters)."""
    items = {"anyOf": [_call_schema(function) for function in functions]}
    schema: dict[str, Any] = {"type": "array", "minItems": 1, "items": items}
    return schema if max_calls is None else {**schema, "maxItems": max_calls}


def parameters_schema(function: dict[str, Any]) -> dict[str, Any]:
    """Arguments are an object also where the schema forgets to say so."""
    given = function.get("parameters")
    return {"type": "object", **(given or {"properties": {}, "additionalProperties": False})}


def _call_schema(function: dict[str, Any]) -> dict[str, Any]:
    return {
        "type": "object",
        "properties": {"name": {"const": function["name"]}, "parameters": parameters_schema(function)},
        "required": ["name", "parameters"],
        "additionalProperties": False,
    }


def _without_later_calls(events: list[AnswerEvent]) -> list[AnswerEvent]:
    return [event for event in events if not isinstance(event, CallEvent) or event.index == 0]
