"""ReasoningSplitter: what a model thinks, between tags at the start of its answer, apart from the answer."""

from __future__ import annotations

from .tool_calls.events import AnswerEvent, ReasoningDelta, TextDelta, joined, overlap

OPEN_TAG, CLOSE_TAG = "<think>", "</think>"


class ReasoningSplitter:
    """Feed text as it comes. White space around the tags is dropped; a text without tags is left as it is.

    starts_inside: the prompt ends with the opening tag, as many templates have it.
    """

    def __init__(self, starts_inside: bool = False) -> None:
        self._text = ""
        self._is_inside = starts_inside
        self._is_over = False  # what follows is the answer
        self._at_edge = True  # nothing but white space since the last tag

    def feed(self, text: str) -> list[AnswerEvent]:
        """The events that became certain."""
        if self._is_over and not self._at_edge:
            return [TextDelta(text)] if text else []
        self._text += text
        events: list[AnswerEvent] = []
        while (found := self._read()) is not None:
            events += found
        return joined(events)

    def finish(self) -> list[AnswerEvent]:
        """The text is over: what waited is decided. Reasoning that was never closed was cut off, and stays that."""
        text, self._text = self._text, ""
        if self._is_inside:
            return joined([ReasoningDelta(text.strip() if self._at_edge else text.rstrip())])
        return joined([TextDelta("" if self._is_over else text)])

    def _read(self) -> list[AnswerEvent] | None:
        """None = wait for more."""
        if self._is_inside:
            return self._read_inside()
        begin = self._text.lstrip()
        if self._is_over:
            self._text = ""
            if not begin:
                return None
            self._at_edge = False
            return [TextDelta(begin)]
        if begin.startswith(OPEN_TAG):
            self._is_inside, self._text = True, begin[len(OPEN_TAG) :]
            return []
        if OPEN_TAG.startswith(begin):
            return None
        text, self._text = self._text, ""
        self._is_over, self._at_edge = True, False
        return [TextDelta(text)]

    def _read_inside(self) -> list[AnswerEvent] | None:
        if self._at_edge:
            self._text = self._text.lstrip()
        place = self._text.find(CLOSE_TAG)
        if place >= 0:
            text, self._text = self._text[:place].rstrip(), self._text[place + len(CLOSE_TAG) :]
            self._is_inside, self._is_over, self._at_edge = False, True, True
            return [ReasoningDelta(text)]
        certain = self._text[: len(self._text) - overlap(self._text, CLOSE_TAG)].rstrip()
        if not certain:
            return None
        self._at_edge = False
        self._text = self._text[len(certain) :]
        return [ReasoningDelta(certain)]
