"""Events of answers in a form that tests read at a glance."""

from __future__ import annotations

from typing import Any

from flowserve.tool_calls import (
    AnswerEvent,
    ArgumentsDelta,
    CallEnd,
    CallStart,
    MalformedCall,
    ReasoningDelta,
    TextDelta,
)


def run(parser: Any, pieces: list[str]) -> list[AnswerEvent]:
    events = [event for piece in pieces for event in parser.feed(piece)] + parser.finish()
    assert all(event.text for event in events if isinstance(event, TextDelta | ReasoningDelta | ArgumentsDelta))
    return events


def told(events: list[AnswerEvent]) -> list[Any]:
    """Text as text, reasoning as ("think", text), calls as (name, arguments, error) in the place of their start,
    malformed ones as ("malformed", text, error)."""
    result: list[Any] = []
    calls: dict[int, int] = {}
    for event in events:
        match event:
            case TextDelta(text):
                if result and isinstance(result[-1], str):
                    result[-1] += text
                else:
                    result.append(text)
            case ReasoningDelta(text):
                if result and result[-1][0] == "think":
                    result[-1] = ("think", result[-1][1] + text)
                else:
                    result.append(("think", text))
            case MalformedCall(text, error):
                result.append(("malformed", text, error))
            case CallStart(index, name):
                assert index == len(calls), "calls are counted from 0"
                calls[index] = len(result)
                result.append((name, "", "open"))
            case ArgumentsDelta(index, text):
                name, arguments, state = result[calls[index]]
                assert state == "open"
                result[calls[index]] = (name, arguments + text, state)
            case CallEnd(index, error):
                name, arguments, state = result[calls[index]]
                assert state == "open"
                result[calls[index]] = (name, arguments, error)
    assert not any(isinstance(item, tuple) and item[-1] == "open" for item in result), "a call that never ends"
    return result
