"""How a chat's text is read: `flowserve.answer.AnswerStream`, or that with some of its events.

A reader is fed the text as it comes and returns the events that became certain, for streams and whole answers alike.
"""

from __future__ import annotations

from typing import Protocol

from ..tool_calls.events import AnswerEvent, CallEvent


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


class ForcedCallsReader:
    """Another reader's calls alone, for a text that a grammar let be nothing else: what is no call is the start of one
    that was cut off, of no use to anybody."""

    def __init__(self, reader: AnswerReader) -> None:
        self._reader = reader

    def feed(self, text: str) -> list[AnswerEvent]:
        return [event for event in self._reader.feed(text) if isinstance(event, CallEvent)]

    def finish(self) -> list[AnswerEvent]:
        return [event for event in self._reader.finish() if isinstance(event, CallEvent)]


def _without_later_calls(events: list[AnswerEvent]) -> list[AnswerEvent]:
    return [event for event in events if not isinstance(event, CallEvent) or event.index == 0]
