"""ChatChoice: one answer of a chat while it grows."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from ..outputs import TokenLogprobs
from .answer_parts import AnswerReader, CallPart, Part
from .outbox import Piece


@dataclass(slots=True)
class Call:
    id: str
    name: str
    arguments: str


class ChatChoice:
    """`content`, `calls` and `logprobs` grow by `keep`; a stream sends its parts instead of keeping them."""

    def __init__(self, reader: AnswerReader) -> None:
        self._reader = reader
        self._texts: list[str] = []
        self.calls: list[Call] = []
        self.logprobs: list[TokenLogprobs] = []
        self.has_calls = False
        self.finish_reason: str | None = None
        self.num_prompt_tokens = 0
        self.num_output_tokens = 0

    @property
    def content(self) -> str:
        return "".join(self._texts)

    def read(self, piece: Piece) -> list[Part]:
        """What became certain of the answer."""
        self.num_prompt_tokens, self.num_output_tokens = piece.num_prompt_tokens, piece.num_output_tokens
        parts = self._reader.feed(piece.text)
        if piece.finish_reason is not None:
            self.finish_reason = piece.finish_reason
            parts = [*parts, *self._reader.finish()]
        self.has_calls = self.has_calls or any(isinstance(part, CallPart) for part in parts)
        return parts

    def keep(self, parts: Sequence[Part], piece: Piece) -> None:
        self.logprobs += piece.logprobs
        for part in parts:
            if not isinstance(part, CallPart):
                self._texts.append(part.text)
            elif part.name is not None:
                self.calls.append(Call(part.id or "", part.name, part.arguments))
            else:
                self.calls[part.index].arguments += part.arguments
