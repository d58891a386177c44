"""MarkedCalls: text, and behind an opening mark something that a subclass reads."""

from __future__ import annotations

from .events import CUT_OFF, AnswerEvent, MalformedCall, TextDelta, joined, overlap

_TELLING = 5
"""Characters: a text that ends in so many of the mark was about to call; fewer may mean anything."""


class MarkedCalls:
    """Feed text as it comes; the events do not depend on where it was cut.

    No part of the mark is ever text, and white space between text and calls belongs to the calls and is dropped.
    """

    mark = ""

    def __init__(self) -> None:
        self._text = ""  # not yet given out
        self._is_inside = False
        self._after_call = False
        self._num_calls = 0

    def feed(self, text: str) -> list[AnswerEvent]:
        """The events that became certain."""
        self._text += text
        events: list[AnswerEvent] = []
        while (found := self._read_inside() if self._is_inside else self._read_outside()) is not None:
            events += found
        return joined(events)

    def finish(self) -> list[AnswerEvent]:
        """The text is over: what waited is decided."""
        events: list[AnswerEvent] = []
        while self._is_inside:
            events += self._end_inside()
            events += self.feed("")
        rest, self._text = self._text.lstrip() if self._after_call else self._text, ""
        if (length := overlap(rest, self.mark)) >= _TELLING:
            return joined([*events, TextDelta(rest[:-length].rstrip()), MalformedCall(rest[-length:], CUT_OFF)])
        return joined([*events, TextDelta(rest)])

    def _read_outside(self) -> list[AnswerEvent] | None:
        """The text up to what may be the mark; enters the call where it is. None = wait for more."""
        if self._after_call:
            self._text = self._text.lstrip()
            if not self._text:
                return None
        start = self._text.find(self.mark)
        if start >= 0:
            text = self._text[:start].rstrip()
            self._text = self._text[start + len(self.mark) :]
            self._is_inside = True
            return [TextDelta(text)]
        certain = self._text[: len(self._text) - overlap(self._text, self.mark)].rstrip()
        if not certain:
            return None
        self._after_call = False
        self._text = self._text[len(certain) :]
        return [TextDelta(certain)]

    def _leave(self, rest: str, was_call: bool) -> None:
        self._text, self._is_inside, self._after_call = rest, False, was_call
        self._num_calls += was_call

    def _read_inside(self) -> list[AnswerEvent] | None:
        raise NotImplementedError

    def _end_inside(self) -> list[AnswerEvent]:
        """Leave the call, which the text does not complete."""
        raise NotImplementedError
