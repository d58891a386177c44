"""One sequence's text on its way to the reader: tool calls taken out, tokens merged where the reader is slow."""

from __future__ import annotations

from typing import NamedTuple, Protocol

from deepserve.protocol.model_io import Generated, GeneratedDelta, ToolCall
from deepserve_runtime.executors.tokenizer import encode
from deepserve_runtime.task import Task


class Piece(NamedTuple):
    """What became certain of the output."""

    text: str = ""
    calls: tuple[ToolCall, ...] = ()
    malformed: tuple[str, ...] = ()


class Parser(Protocol):
    def feed(self, text: str) -> Piece: ...

    def finish(self) -> Piece: ...


class Generation:
    def __init__(self, task: Task, parser: Parser | None) -> None:
        self.task = task
        self._parser = parser
        self._text: list[str] = []
        self._calls: list[ToolCall] = []
        self._malformed: list[str] = []
        self._pending_text = ""
        self._pending_calls: list[ToolCall] = []
        self._generated: Generated | None = None

    @property
    def is_complete(self) -> bool:
        """The engine is done with it; its outcome may still wait for the reader."""
        return self._generated is not None

    def add(self, text: str) -> None:
        self._take(Piece(text) if self._parser is None else self._parser.feed(text))

    def complete(self, finish_reason: str, prompt_tokens: int, completion_tokens: int) -> None:
        if self._parser is not None:
            self._take(self._parser.finish())
        self._generated = Generated(
            text="".join(self._text),
            finish_reason="tool_calls" if self._calls else finish_reason,
            prompt_tokens=prompt_tokens,
            completion_tokens=completion_tokens,
            tool_calls=self._calls,
            malformed_calls=self._malformed,
        )

    def flush(self) -> bool:
        """Sends what may be sent; True once the outcome is out."""
        if self.task.assignment.kind == "stream" and (self._pending_text or self._pending_calls):
            if not self.task.may_send:
                return False
            delta = GeneratedDelta(self._pending_text, self._pending_calls)
            self._pending_text, self._pending_calls = "", []
            self.task.emit(*encode(delta))
        if self._generated is None:
            return False
        self.task.finish(*encode(self._generated))
        return True

    def _take(self, piece: Piece) -> None:
        self._text.append(piece.text)
        self._pending_text += piece.text
        self._calls += piece.calls
        self._pending_calls += piece.calls
        self._malformed += piece.malformed
