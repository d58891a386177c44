"""Mistral, as it wrote calls at first and as it writes them since its eleventh tokenizer:

[TOOL_CALLS] [{"name": "get_weather", "arguments": {"city": "Paris"}}, ...]
[TOOL_CALLS]get_weather[ARGS]{"city": "Paris"}[TOOL_CALLS]...
"""

from __future__ import annotations

import re

from .events import CUT_OFF, AnswerEvent, ArgumentsDelta, CallEnd, CallStart, MalformedCall
from .json_call import JsonCall, JsonScanner, problem_of
from .marked import MarkedCalls
from .writing import CallWriting

NAMED_WRITING = CallWriting(
    before="[TOOL_CALLS]",
    middle="[ARGS]",
    behind="",
    between="",
    marks=("[TOOL_CALLS]", "[ARGS]"),
    needs="[ARGS]",
    has_json_name=False,
)
LIST_WRITING = CallWriting(
    firsts=("[TOOL_CALLS] [", "[TOOL_CALLS]["),
    before='{"name": ',
    middle=', "arguments": ',
    behind="}",
    between=", ",
    last="]",
    marks=("[TOOL_CALLS]",),
)

_NAMED = re.compile(r"\s*([\w.-]+)\s*(?:\[CALL_ID\]\w*)?(?:\[ARGS\])?\s*(?=\{)")
_MAX_NAME = 200
"""Longer text without arguments is no call."""


class MistralCalls(MarkedCalls):
    """Behind something that is no call, the rest is text."""

    mark = "[TOOL_CALLS]"

    def __init__(self) -> None:
        super().__init__()
        self._call: JsonCall | None = None  # in a list
        self._is_in_list = False
        self._scanner: JsonScanner | None = None  # of the arguments behind a name
        self._num_sent = 0

    def _read_inside(self) -> list[AnswerEvent] | None:
        if self._scanner is not None:
            return self._read_arguments()
        if self._is_in_list:
            return self._read_list()
        begin = self._text.lstrip()
        if begin.startswith("["):
            self._is_in_list, self._text = True, begin[1:]
            return []
        if (named := _NAMED.match(self._text)) is not None:
            self._scanner, self._num_sent = JsonScanner(), 0
            self._text = self._text[named.end() :]
            return [CallStart(self._num_calls, named[1])]
        if len(begin) > _MAX_NAME:
            self._leave(self._text, was_call=False)
            return [MalformedCall(self.mark, "no name and arguments follow")]
        return None

    def _read_arguments(self) -> list[AnswerEvent] | None:
        assert self._scanner is not None
        end = self._scanner.find_end(self._text)
        fragment = self._text[self._num_sent : end if end >= 0 else len(self._text)]
        self._num_sent += len(fragment)
        events: list[AnswerEvent] = [ArgumentsDelta(self._num_calls, fragment)] if fragment else []
        if end < 0:
            return events or None
        problem = problem_of(self._text[:end])
        events.append(CallEnd(self._num_calls, problem))
        self._scanner = None
        self._leave(self._text[end:], was_call=True)
        return events

    def _read_list(self) -> list[AnswerEvent] | None:
        """Calls between commas, up to the bracket that closes the list."""
        if self._call is None:
            begin = self._text.lstrip(" \t\r\n,")
            if begin.startswith("]"):
                self._is_in_list = False
                self._num_calls -= 1  # `_leave` counts one, and the list's own are counted
                self._leave(begin[1:], was_call=True)
                return []
            if not begin:
                return None
            self._call, self._text = JsonCall(self._num_calls), begin
        if not self._text:
            return None
        call = self._call
        events: list[AnswerEvent] = list(call.feed(self._text))
        self._text = ""
        if call.is_over or call.is_no_call:
            events += self._end_call(call)
        return events

    def _end_call(self, call: JsonCall) -> list[AnswerEvent]:
        """The next in the list, or, behind something that is no call, text."""
        self._call, self._text = None, call.rest
        if call.is_call:
            self._num_calls += 1
            return []
        self._is_in_list = False
        malformed, rest = (call.text, call.rest) if call.is_over else ("", call.text)
        self._leave(rest, was_call=False)
        return [MalformedCall(f"{self.mark}[{malformed}", call.problem)]

    def _end_inside(self) -> list[AnswerEvent]:
        if self._scanner is not None:
            self._scanner = None
            self._leave("", was_call=True)
            return [CallEnd(self._num_calls - 1, CUT_OFF)]
        call, self._call = self._call, None
        rest = "[" + (call.text if call is not None else "") if self._is_in_list else self._text
        lacks_only_bracket = self._is_in_list and call is None and self._num_calls > 0
        self._is_in_list = False
        if call is not None and call.is_call:
            self._leave("", was_call=True)
            return list(call.break_off())
        self._leave("", was_call=False)
        return [] if lacks_only_bracket else [MalformedCall(self.mark + rest, CUT_OFF)]
