"""Lone surrogates: halves of characters that JSON's escapes and Python's texts can hold, and UTF-8 cannot."""

from __future__ import annotations

import json
import re
from typing import Any, NamedTuple

_SURROGATE = re.compile("[\ud800-\udfff]")


class LoneSurrogate(NamedTuple):
    """place: of the text that holds it, such as `messages[0].content`."""

    place: str
    half: str

    def __str__(self) -> str:
        half = f"'\\u{ord(self.half):04x}'"
        return f"{self.place or 'the text'} holds the lone surrogate {half}, half a character, which no UTF-8 text has"


def find_lone_surrogate(value: Any) -> LoneSurrogate | None:
    """The first in `value`, which is made of dicts, lists, texts and numbers."""
    pending: list[tuple[str, Any]] = [("", value)]
    while pending:
        place, one = pending.pop()
        if isinstance(one, str):
            if found := _SURROGATE.search(one):
                return LoneSurrogate(place, found[0])
        elif isinstance(one, dict):
            keys = [(f"a name in {place or 'the object'}", key) for key in one if isinstance(key, str)]
            inside = [(f"{place}.{key}" if place else f"{key}", part) for key, part in one.items()]
            pending += reversed([*keys, *inside])
        elif isinstance(one, list | tuple):
            pending += [(f"{place}[{index}]", part) for index, part in reversed([*enumerate(one)])]
    return None


def lone_surrogate_in_json(body: bytes) -> LoneSurrogate | None:
    """Of a body that a strict reader refused; None where that was for another reason."""
    if b"\\ud" not in body.lower():
        return None
    try:
        return find_lone_surrogate(json.loads(body))
    except (ValueError, RecursionError):
        return None
