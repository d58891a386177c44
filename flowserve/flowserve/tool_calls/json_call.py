"""One call written as a JSON object, read as its text comes: {"name": ..., "arguments": {...}}."""

from __future__ import annotations

import json
import re

from .events import CUT_OFF, ArgumentsDelta, CallEnd, CallEvent, CallStart

_STRUCTURE = re.compile(r'["\\{}\[\]]')
_HEAD = re.compile(r'\s*\{\s*"name"\s*:\s*("(?:[^"\\]|\\.)+")\s*,\s*"(?:arguments|parameters)"\s*:\s*(?=\{)')
_FIRST_KEY = re.compile(r'\s*\{\s*"((?:[^"\\]|\\.)*)"')
_CALL_KEYS = ("name", "arguments", "parameters", "type", "function", "id")


class JsonScanner:
    """Finds the end of the JSON object or list at the start of a text, which may come in pieces."""

    def __init__(self) -> None:
        self.in_string = False
        self._escaped_at = -1
        self._depth = 0
        self._scanned = 0

    def find_end(self, text: str) -> int:
        """Where the object ends, -1 when it has not. `text`: all of it so far."""
        for match in _STRUCTURE.finditer(text, self._scanned):
            place, character = match.start(), match[0]
            if place == self._escaped_at:
                continue
            if character == "\\":
                if self.in_string:
                    self._escaped_at = place + 1
            elif character == '"':
                self.in_string = not self.in_string
            elif not self.in_string:
                self._depth += 1 if character in "{[" else -1
                if self._depth <= 0:
                    self._scanned = place + 1
                    return place + 1
        self._scanned = len(text)
        return -1


class JsonCall:
    """Feed its text; the arguments leave as they come where the name stands before them.

    is_over: the object is complete, `rest` is what follows it.  is_call: a CallStart is out.  problem: why a complete
    object is no call.
    """

    def __init__(self, index: int) -> None:
        self.text = ""
        self.rest = ""
        self.is_over = False
        self.is_call = False
        self.problem = "not a JSON object"
        self._index = index
        self._object = JsonScanner()
        self._arguments = JsonScanner()
        self._begin = 0  # of the arguments
        self._num_sent = 0  # of their characters
        self._all_sent = False

    @property
    def in_string(self) -> bool:
        return self._object.in_string

    @property
    def is_no_call(self) -> bool:
        """Already certain: no object, or one whose first key no call has."""
        text = self.text.lstrip()
        if text and not text.startswith("{"):
            return True
        key = _FIRST_KEY.match(text)
        return key is not None and key[1] not in _CALL_KEYS

    def feed(self, text: str) -> list[CallEvent]:
        self.text += text
        events: list[CallEvent] = []
        if not self.is_call and (head := _HEAD.match(self.text)) is not None and (name := _text_of(head[1])):
            self.is_call = True
            self._begin = head.end()
            events.append(CallStart(self._index, name))
        if self.is_call and not self._all_sent:
            events += self._more_arguments()
        if not self.text.lstrip().startswith("{"):
            return events
        end = self._object.find_end(self.text)
        if end >= 0:
            self.text, self.rest = self.text[:end], self.text[end:]
            self.is_over = True
            events += self._complete()
        return events

    def break_off(self, reason: str = CUT_OFF) -> list[CallEvent]:
        """The text ends here although the object does not; nothing where no call has begun (`text` has it all)."""
        return [CallEnd(self._index, reason)] if self.is_call else []

    def _more_arguments(self) -> list[CallEvent]:
        arguments = self.text[self._begin :]
        end = self._arguments.find_end(arguments)
        self._all_sent = end >= 0
        fragment = arguments[self._num_sent : end if end >= 0 else len(arguments)]
        self._num_sent += len(fragment)
        return [ArgumentsDelta(self._index, fragment)] if fragment else []

    def _complete(self) -> list[CallEvent]:
        if self.is_call:
            arguments = self.text[self._begin : self._begin + self._num_sent]
            return [CallEnd(self._index, problem_of(arguments))]
        try:
            call = read_call(self.text)
        except ValueError as error:
            self.problem = str(error)
            return []
        self.is_call = True
        return whole_call(self._index, *call)


def _text_of(literal: str) -> str | None:
    """Of a JSON string; None where it has an escape that JSON does not know."""
    try:
        return str(json.loads(literal, strict=False))
    except ValueError:
        return None


def read_call(text: str) -> tuple[str, str]:
    """Name and arguments (JSON text of an object) of a call in JSON. Raises ValueError that says why it is none."""
    try:
        value = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise ValueError(f"not JSON: {error}") from error
    if not isinstance(value, dict):
        raise ValueError("not a JSON object")
    name = value.get("name")
    if not isinstance(name, str) or not name:
        raise ValueError("no 'name'")
    arguments = value.get("arguments", value.get("parameters"))
    if isinstance(arguments, str):  # some models write the arguments as JSON text, as the OpenAI API has them
        if (problem := problem_of(arguments)) is not None:
            raise ValueError(f"'arguments' is {problem}")
        return name, arguments
    arguments = {} if arguments is None else arguments
    if not isinstance(arguments, dict):
        raise ValueError("'arguments' is not a JSON object")
    return name, json.dumps(arguments, ensure_ascii=False)


def whole_call(index: int, name: str, arguments: str) -> list[CallEvent]:
    return [CallStart(index, name), ArgumentsDelta(index, arguments), CallEnd(index)]


def problem_of(arguments: str) -> str | None:
    """Why a text is no JSON object; None where it is one."""
    try:
        value = json.loads(arguments)
    except (ValueError, RecursionError) as error:
        return f"not JSON: {error}"
    return None if isinstance(value, dict) else "not a JSON object"
