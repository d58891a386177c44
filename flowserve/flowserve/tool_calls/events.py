"""What a model's answer consists of, in the order in which it becomes certain."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class ReasoningDelta:
    """More of what the model thinks before it answers."""

    text: str


@dataclass(frozen=True, slots=True)
class TextDelta:
    """More of the answer itself."""

    text: str


@dataclass(frozen=True, slots=True)
class CallStart:
    """A call of the function `name` begins; calls are counted from 0."""

    index: int
    name: str


@dataclass(frozen=True, slots=True)
class ArgumentsDelta:
    """More of a call's arguments, as JSON text. All of a call's fragments joined are a JSON object, unless its
    `CallEnd` says otherwise: then they are what the model wrote."""

    index: int
    text: str


@dataclass(frozen=True, slots=True)
class CallEnd:
    """A call is over. error: why its arguments are no JSON object."""

    index: int
    error: str | None = None


@dataclass(frozen=True, slots=True)
class MalformedCall:
    """What was to be a call and is none, or not even the start of one. text: as the model wrote it, with the marks.

    error: why; CUT_OFF where the text ends before that is known. A reader of text may show it, an agent reports it.
    """

    text: str
    error: str


CUT_OFF = "the text ends inside the call"
CallEvent = CallStart | ArgumentsDelta | CallEnd
AnswerEvent = ReasoningDelta | TextDelta | CallStart | ArgumentsDelta | CallEnd | MalformedCall


def joined(events: list[AnswerEvent]) -> list[AnswerEvent]:
    """Neighbouring pieces of the same kind as one, empty ones left out."""
    result: list[AnswerEvent] = []
    for event in events:
        last = result[-1] if result else None
        if isinstance(event, TextDelta) and isinstance(last, TextDelta):
            result[-1] = TextDelta(last.text + event.text)
        elif isinstance(event, ReasoningDelta) and isinstance(last, ReasoningDelta):
            result[-1] = ReasoningDelta(last.text + event.text)
        elif isinstance(event, ArgumentsDelta) and isinstance(last, ArgumentsDelta) and last.index == event.index:
            result[-1] = ArgumentsDelta(event.index, last.text + event.text)
        elif not isinstance(event, TextDelta | ReasoningDelta | ArgumentsDelta) or event.text:
            result.append(event)
    return result


def overlap(text: str, mark: str) -> int:
    """Length of the longest end of `text` that is a proper start of `mark`."""
    longest = min(len(mark) - 1, len(text))
    return next((length for length in range(longest, 0, -1) if mark.startswith(text[-length:])), 0)
