"""Llama 3.1 to 3.3: nothing but a call, or text.

{"name": "get_weather", "parameters": {"city": "Paris"}}; {"name": ...}
<|python_tag|>{"name": ...}
<|python_tag|>brave_search.call(query="weather in Paris")
"""

from __future__ import annotations

from .events import CUT_OFF, AnswerEvent, MalformedCall, TextDelta, joined, overlap
from .json_call import JsonCall, whole_call
from .pythonic import read_python_calls
from .writing import CallWriting

LLAMA_WRITING = CallWriting(before='{"name": ', middle=', "parameters": ', behind="}", between="; ")

_TAG = "<|python_tag|>"


class LlamaCalls:
    """An answer that begins like a call waits until it is one or cannot be; other text leaves at once."""

    def __init__(self) -> None:
        self._text = ""
        self._call: JsonCall | None = None
        self._before = ""  # the tag, if the call stands behind one
        self._num_calls = 0
        self._is_text = False
        self._is_code = False

    def feed(self, text: str) -> list[AnswerEvent]:
        self._text += text
        events: list[AnswerEvent] = []
        while (found := self._read()) is not None:
            events += found
        return joined(events)

    def finish(self) -> list[AnswerEvent]:
        rest, self._text = self._text, ""
        if self._is_code:
            calls = read_python_calls(rest.strip())
            if calls and len(calls) == 1:
                name, arguments = calls[0]
                return list(whole_call(self._num_calls, name.removesuffix(".call"), arguments))
            return [MalformedCall(_TAG + rest, "no call with named arguments")]
        if self._call is None and self._before:
            return [MalformedCall(self._before + rest, CUT_OFF)]
        if self._call is None:
            return joined([TextDelta(rest if not self._num_calls else rest.strip("; \n"))])
        if self._call.is_call:
            return list(self._call.break_off())
        return [MalformedCall(self._before + self._call.text, CUT_OFF)]

    def _read(self) -> list[AnswerEvent] | None:
        if self._is_code:
            return None
        if self._is_text:
            return self._read_text()
        if self._call is not None:
            return self._read_call(self._call)
        begin = self._text.lstrip("; \n\t\r" if self._num_calls else None)
        if begin.startswith(_TAG):
            self._before, self._text = _TAG, begin[len(_TAG) :]
            return []
        if not begin or (len(begin) < len(_TAG) and _TAG.startswith(begin)):
            return None
        if begin.startswith("{"):
            self._call, self._text = JsonCall(self._num_calls), begin
        elif self._before:
            self._is_code = True
        else:
            self._is_text = True
        return []

    def _read_text(self) -> list[AnswerEvent] | None:
        """A call may still follow, behind the tag."""
        place = self._text.find(_TAG)
        if place >= 0:
            text, self._text = self._text[:place], self._text[place:]
            self._is_text = False
            return [TextDelta(text)]
        certain = len(self._text) - overlap(self._text, _TAG)
        text, self._text = self._text[:certain], self._text[certain:]
        return [TextDelta(text)] if text else None

    def _read_call(self, call: JsonCall) -> list[AnswerEvent] | None:
        if not self._text:
            return None
        events: list[AnswerEvent] = list(call.feed(self._text))
        self._text = ""
        if call.is_over and call.is_call:
            self._call, self._before, self._text = None, "", call.rest
            self._num_calls += 1
        elif call.is_over or call.is_no_call:
            self._call, self._is_text, self._text = None, True, call.rest
            events.append(TextDelta(self._before + call.text))
            self._before = ""
        return events
