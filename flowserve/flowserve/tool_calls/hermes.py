"""Hermes, Qwen2.5, Qwen3 and many that learned from them:

<tool_call>
{"name": "get_weather", "arguments": {"city": "Paris"}}
</tool_call>
"""

from __future__ import annotations

from .events import CUT_OFF, AnswerEvent, MalformedCall, TextDelta, overlap
from .json_call import JsonCall
from .marked import MarkedCalls
from .writing import CallWriting

HERMES_WRITING = CallWriting(
    before='<tool_call>\n{"name": ',
    middle=', "arguments": ',
    behind="}\n</tool_call>",
    between="\n",
    marks=("<tool_call>", "</tool_call>"),
)


class HermesCalls(MarkedCalls):
    """A closing tag inside a string of the arguments belongs to the string."""

    mark = "<tool_call>"
    _CLOSE = "</tool_call>"

    def __init__(self) -> None:
        super().__init__()
        self._call: JsonCall | None = None

    def _read_inside(self) -> list[AnswerEvent] | None:
        call = self._call = self._call or JsonCall(self._num_calls)
        place = self._text.find(self._CLOSE)
        upto = place if place >= 0 else len(self._text) - overlap(self._text, self._CLOSE)
        body, self._text = self._text[:upto], self._text[upto:]
        events: list[AnswerEvent] = []
        if call.is_over:
            call.rest += body
        elif body:
            events += call.feed(body)
        if place < 0:
            return events or None
        if call.in_string:  # no end, but a part of an argument
            events += call.feed(self._CLOSE)
            self._text = self._text[len(self._CLOSE) :]
            return events
        return events + self._close(self._text[len(self._CLOSE) :], self._CLOSE)

    def _end_inside(self) -> list[AnswerEvent]:
        """A call without its closing tag counts if it is complete."""
        rest, self._text = self._text, ""
        call = self._call or JsonCall(self._num_calls)
        self._call = call
        events: list[AnswerEvent] = []
        if not call.is_over:  # else it is a start of the closing tag, and no text
            events += call.feed(rest)
        return events + self._close("", "")

    def _close(self, behind: str, tag: str) -> list[AnswerEvent]:
        call, self._call = self._call, None
        assert call is not None
        self._leave(behind, call.is_call)
        if not call.is_call:
            problem = call.problem if tag or call.is_over else CUT_OFF
            return [MalformedCall(self.mark + call.text + call.rest + tag, problem)]
        if not call.is_over:
            return list(call.break_off())
        return [TextDelta(call.rest.strip())]
