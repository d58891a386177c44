"""ChatChoice: one answer of a chat while it grows."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from ..outputs import TokenLogprobs
from ..tool_calls.events import AnswerEvent, ArgumentsDelta, CallStart, MalformedCall, ReasoningDelta, TextDelta
from .answer_readers import AnswerReader
from .outbox import Piece


@dataclass(slots=True)
class Call:
    id: str
    name: str
    arguments: str = ""


class ChatChoice:
    """`content`, `reasoning`, `calls` and `logprobs` grow by `keep`; a stream sends its events instead.

    call_id: of its call of that number.
    """

    def __init__(self, reader: AnswerReader, call_id: Callable[[int], str]) -> None:
        self._reader = reader
        self.call_id = call_id
        self._content: list[str] = []
        self._reasoning: list[str] = []
        self.calls: list[Call] = []
        self.logprobs: list[TokenLogprobs] = []
        self.has_calls = False
        self.finish_reason: str | None = None
        self.num_prompt_tokens = 0
        self.num_output_tokens = 0
        self.num_cached_tokens = 0

    @property
    def content(self) -> str:
        return "".join(self._content)

    @property
    def reasoning(self) -> str:
        return "".join(self._reasoning)

    def read(self, piece: Piece) -> list[AnswerEvent]:
        """What became certain of the answer. A malformed call is text, unless the answer was cut off inside it: then it
        might have become a call, and a piece of its markup is of no use to anybody."""
        self.num_prompt_tokens, self.num_output_tokens = piece.num_prompt_tokens, piece.num_output_tokens
        self.num_cached_tokens = piece.num_cached_tokens
        events = _shown(self._reader.feed(piece.text))
        if piece.finish_reason is not None:
            self.finish_reason = piece.finish_reason
            last = self._reader.finish()
            if piece.finish_reason != "stop":
                last = [event for event in last if not isinstance(event, MalformedCall)]
            events += _shown(last)
        self.has_calls = self.has_calls or any(isinstance(event, CallStart) for event in events)
        return events

    def keep(self, events: Sequence[AnswerEvent], piece: Piece) -> None:
        self.logprobs += piece.logprobs
        for event in events:
            if isinstance(event, TextDelta):
                self._content.append(event.text)
            elif isinstance(event, ReasoningDelta):
                self._reasoning.append(event.text)
            elif isinstance(event, CallStart):
                self.calls.append(Call(self.call_id(len(self.calls)), utf8(event.name)))
            elif isinstance(event, ArgumentsDelta):
                self.calls[event.index].arguments += utf8(event.text)


def _shown(events: list[AnswerEvent]) -> list[AnswerEvent]:
    return [TextDelta(event.text) if isinstance(event, MalformedCall) else event for event in events]


def utf8(text: str) -> str:
    """Without the halves of characters that escapes in a model's JSON may stand for."""
    return text if text.isascii() else text.encode("utf-8", "replace").decode()
