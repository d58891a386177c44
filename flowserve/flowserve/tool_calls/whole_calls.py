"""Tool calls in a model's text, in the format of Hermes and Qwen:

    <tool_call>
    {"name": "get_weather", "arguments": {"city": "Paris"}}
    </tool_call>

One parser for streams; parsing a whole text is feeding it at once. It knows the format, not any model.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import Any

from .events import overlap

OPEN_TAG, CLOSE_TAG = "<tool_call>", "</tool_call>"
_TELLING_OVERLAP = len("<tool")  # a text that ends in less of the tag may well mean it


@dataclass(frozen=True, slots=True)
class ContentDelta:
    """Text outside of calls."""

    text: str


@dataclass(frozen=True, slots=True)
class ToolCall:
    """One complete call."""

    name: str
    arguments: dict[str, Any]


@dataclass(frozen=True, slots=True)
class MalformedToolCall:
    """Something between the tags that is no call. `text` is as the model wrote it, without the tags."""

    text: str
    reason: str


ToolCallEvent = ContentDelta | ToolCall | MalformedToolCall


@dataclass(frozen=True, slots=True)
class ParsedText:
    """content: text outside of calls, None when there is none beside calls.  malformed: report it, do not drop it."""

    content: str | None
    tool_calls: tuple[ToolCall, ...]
    malformed: tuple[MalformedToolCall, ...] = ()


def parse_tool_calls(text: str) -> ParsedText:
    """Split a finished text. White space that touches a call belongs to it and is dropped."""
    stream = ToolCallStream()
    events = stream.feed(text) + stream.finish()
    content = "".join(event.text for event in events if isinstance(event, ContentDelta))
    calls = tuple(event for event in events if isinstance(event, ToolCall))
    malformed = tuple(event for event in events if isinstance(event, MalformedToolCall))
    return ParsedText(content if content or not (calls or malformed) else None, calls, malformed)


class ToolCallStream:
    """Feed text as it comes; the events do not depend on where it was cut.

    No part of a tag is ever content: an end of text that may become a tag, and white space before it, waits. The body
    of a call ends at the first closing tag that makes it JSON, so a tag inside a string argument is an argument.
    """

    def __init__(self) -> None:
        self._text = ""  # not yet given out; while in a call, its body so far
        self._in_call = False
        self._after_call = False
        self._searched = 0  # closing tags before this place in the body did not end it

    def feed(self, delta: str) -> list[ToolCallEvent]:
        """The events that became certain."""
        self._text += delta
        events: list[ToolCallEvent] = []
        while (event := self._next_call() if self._in_call else self._next_content()) is not None:
            if not isinstance(event, ContentDelta) or event.text:
                events.append(event)
        return _joined(events)

    def finish(self) -> list[ToolCallEvent]:
        """The text is over: what waited is decided. A call without its closing tag counts if it is complete."""
        events: list[ToolCallEvent] = []
        while self._in_call:
            end = self._text.find(CLOSE_TAG)
            body = self._text if end < 0 else self._text[:end]
            rest = "" if end < 0 else self._text[end + len(CLOSE_TAG) :]
            events.append(_read_call(body, "the text ends inside the call" if end < 0 else ""))
            self._leave_call(rest)
            events += self.feed("")
        rest, self._text = self._text.lstrip() if self._after_call else self._text, ""
        length = overlap(rest, OPEN_TAG)
        if length >= _TELLING_OVERLAP:
            content, tag = rest[:-length].rstrip(), rest[-length:]
            events += [ContentDelta(content), MalformedToolCall(tag, "the text ends inside the opening tag")]
        else:
            events.append(ContentDelta(rest))
        events = [event for event in events if not isinstance(event, ContentDelta) or event.text]
        return _joined(events)

    def _next_content(self) -> ToolCallEvent | None:
        """The text up to what may be a tag; enters the call when it is one. None = wait for more."""
        if self._after_call:
            self._text = self._text.lstrip()
            if not self._text:
                return None
        start = self._text.find(OPEN_TAG)
        if start >= 0:
            content = self._text[:start].rstrip()
            self._text = self._text[start + len(OPEN_TAG) :]
            self._in_call, self._searched = True, 0
            return ContentDelta(content)
        certain = self._text[: len(self._text) - overlap(self._text, OPEN_TAG)].rstrip()
        if not certain:
            return None
        self._after_call = False
        self._text = self._text[len(certain) :]
        return ContentDelta(certain)

    def _next_call(self) -> ToolCallEvent | None:
        """The call whose body is complete, or None = wait for more."""
        while (end := self._text.find(CLOSE_TAG, self._searched)) >= 0:
            body, after = self._text[:end], end + len(CLOSE_TAG)
            event = _read_call(body)
            if isinstance(event, ToolCall) or not _ends_inside_string(body):
                self._leave_call(self._text[after:])
                return event
            self._searched = after
        self._searched = max(self._searched, len(self._text) - len(CLOSE_TAG) + 1)
        return None

    def _leave_call(self, rest: str) -> None:
        self._text, self._in_call, self._after_call, self._searched = rest, False, True, 0


def _read_call(body: str, cut_off: str = "") -> ToolCall | MalformedToolCall:
    try:
        value = json.loads(body)
    except (ValueError, RecursionError) as error:
        return MalformedToolCall(body.strip(), cut_off or f"not JSON: {error}")
    if not isinstance(value, dict):
        return MalformedToolCall(body.strip(), "not a JSON object")
    name, arguments = value.get("name"), value.get("arguments")
    arguments = {} if arguments is None else arguments
    if isinstance(arguments, str):  # some models write the arguments as JSON text, as the OpenAI API has them
        try:
            arguments = json.loads(arguments)
        except (ValueError, RecursionError) as error:
            return MalformedToolCall(body.strip(), f"'arguments' is not JSON: {error}")
    if not isinstance(name, str) or not name:
        return MalformedToolCall(body.strip(), "no 'name'")
    if not isinstance(arguments, dict):
        return MalformedToolCall(body.strip(), "'arguments' is not an object")
    return ToolCall(name, arguments)


def _ends_inside_string(body: str) -> bool:
    """Whether JSON text, however broken, stops inside a string literal."""
    inside, escaped = False, False
    for character in body:
        if escaped:
            escaped = False
        elif inside and character == "\\":
            escaped = True
        elif character == '"':
            inside = not inside
    return inside


def _joined(events: list[ToolCallEvent]) -> list[ToolCallEvent]:
    """Neighbouring pieces of content as one."""
    joined: list[ToolCallEvent] = []
    for event in events:
        if joined and isinstance(event, ContentDelta) and isinstance(joined[-1], ContentDelta):
            joined[-1] = ContentDelta(joined[-1].text + event.text)
        else:
            joined.append(event)
    return joined
