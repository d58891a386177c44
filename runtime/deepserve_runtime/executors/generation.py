"""One sequence's text on its way to the reader: tool calls taken out, tokens merged where the reader is slow.

Each item takes along the tokens that it and those before it follow from (`Journal`): where an item has arrived, another
pod can go on with the next one, for both arrive in one frame.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import NamedTuple, Protocol

from deepserve.protocol.model_io import Generated, GeneratedDelta, PromptContext, ToolCall
from deepserve_runtime.executors.flowserve_parts import SequenceOutput
from deepserve_runtime.executors.journal import Journal
from deepserve_runtime.executors.values import encode
from deepserve_runtime.task import Task

MAX_UNSAID = 32
"""Tokens that a lost pod takes with it, where they give the reader nothing."""


class Piece(NamedTuple):
    """What became certain of the output."""

    text: str = ""
    calls: tuple[ToolCall, ...] = ()
    malformed: tuple[str, ...] = ()


class Parser(Protocol):
    def feed(self, text: str) -> Piece: ...

    def finish(self) -> Piece: ...


class Generation:
    """context: the stored start of the prompt, where there is one, or what it is to become."""

    def __init__(
        self,
        task: Task,
        parser: Parser | None,
        journal: Journal | None = None,
        context: PromptContext | None = None,
    ) -> None:
        self.task = task
        self.context = context
        self.sequence_ids: list[str] = []
        """Its one sequence, once it is in the engine."""
        self._parser = parser
        self.journal = journal or Journal()
        self._is_resuming = bool(self.journal.token_ids)
        self._text: list[str] = []
        self._calls: list[ToolCall] = []
        self._malformed: list[str] = []
        self._pending_text = ""
        self._pending_calls: list[ToolCall] = []
        self._generated: Generated | None = None

    def outputs(self, number: int) -> list[list[int]]:
        """What it has put out before."""
        return self.journal.outputs()

    @property
    def is_complete(self) -> bool:
        """The engine is done with it; its outcome may still wait for the reader."""
        return self._generated is not None

    def add(self, text: str, token_ids: Iterable[int] = ()) -> None:
        self.journal.add(token_ids)
        self._take(Piece(text) if self._parser is None else self._parser.feed(text))

    def resumed(self) -> None:
        """What was added up to now comes first of a sequence that was begun elsewhere: its reader has it already."""
        if self._is_resuming:
            self._is_resuming = False
            self._pending_text, self._pending_calls = "", []

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

    def receive(self, output: SequenceOutput) -> None:
        self.add(output.text, output.token_ids)
        if output.finished:
            self.complete(output.finish_reason or "stop", output.num_prompt_tokens, output.num_output_tokens)
        self.resumed()

    def flush(self) -> bool:
        """Sends what may be sent; True once the outcome is out."""
        if self.task.assignment.kind == "stream" and (self._pending_text or self._pending_calls):
            if not self.task.may_send:
                return False
            delta = GeneratedDelta(self._pending_text, self._pending_calls)
            self._pending_text, self._pending_calls = "", []
            self.task.emit(*encode(delta), self.journal.take())
        if self._generated is None:
            if self.journal.num_unsaid >= MAX_UNSAID:
                self.task.note(self.journal.take())
            return False
        self.task.finish(*encode(self._generated))
        return True

    def leave(self) -> None:
        """Another pod goes on behind what the reader has; what it has no room for is made again there."""
        has_pending = self._pending_text or self._pending_calls
        if self.journal.num_unsaid and not (self.task.assignment.kind == "stream" and has_pending):
            self.task.note(self.journal.take())
        self.task.release()

    def _take(self, piece: Piece) -> None:
        self._text.append(piece.text)
        self._pending_text += piece.text
        self._calls += piece.calls
        self._pending_calls += piece.calls
        self._malformed += piece.malformed
