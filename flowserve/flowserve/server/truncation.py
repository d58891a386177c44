"""A conversation without its oldest part, so that it fits a context: what OpenAI's `truncation: "auto"` asks for."""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Callable
from typing import Any

Messages = list[dict[str, Any]]


def shortened(messages: Messages, fits: Callable[[Messages], bool]) -> Messages:
    """As much of the end as `fits`, behind the system's messages that it begins with: whole turns go, the oldest first,
    then the first calls of the last turn with what came of them. What cannot get short enough is returned as short as
    it gets. `fits` is asked some ten times, however many messages there are.
    """
    num_first = next((i for i, message in enumerate(messages) if message["role"] != "system"), len(messages))
    first, rest = messages[:num_first], messages[num_first:]
    asked = [i for i, message in enumerate(rest) if message["role"] == "user"]
    last = asked[-1] if asked else 0
    answers = [i for i in range(last, len(rest)) if rest[i]["role"] == "assistant"]
    cuts = [(0, i) for i in (0, *asked[1:])]
    """How much of the last question is kept, and where the messages behind it begin."""
    cuts += [(answers[0] - last, i) for i in answers[1:]]

    def cut(number: int) -> Messages:
        num_kept, begin = cuts[number]
        return [*first, *rest[last : last + num_kept], *rest[begin:]]

    found = bisect_left(range(len(cuts) - 1), True, key=lambda number: fits(cut(number)))
    return cut(found)
