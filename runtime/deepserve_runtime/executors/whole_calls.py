"""WholeCalls: tool calls as the SDK gets them, whole and with arguments as objects."""

from __future__ import annotations

import json
from typing import Any

from deepserve.protocol.model_io import ToolCall
from deepserve_runtime.executors.completion import Piece
from deepserve_runtime.executors.flowserve_parts import (
    AnswerEvent,
    ArgumentsDelta,
    CallEnd,
    CallParser,
    CallStart,
    MalformedCall,
    TextDelta,
)
from deepserve_runtime.executors.journal import Journal
from deepserve_runtime.executors.values import encode


class WholeCalls:
    """Whole calls from flowserve's streams of fragments. Malformed ones go to the agent, which tells the model."""

    def __init__(self, parser: CallParser, journal: Journal | None = None, completion: int = 0) -> None:
        self._parser = parser
        self._completion = completion
        self._journal = journal or Journal()
        self._num_calls = 0
        self._name = ""
        self._arguments = ""

    def feed(self, text: str) -> Piece:
        return self._piece(self._parser.feed(text))

    def finish(self) -> Piece:
        return self._piece(self._parser.finish())

    def _piece(self, events: list[AnswerEvent]) -> Piece:
        text, calls, malformed = "", [], []
        for event in events:
            match event:
                case TextDelta():
                    text += event.text
                case CallStart():
                    self._name, self._arguments = event.name, ""
                case ArgumentsDelta():
                    self._arguments += event.text
                case CallEnd():
                    arguments = json.loads(self._arguments) if event.error is None else None
                    if arguments is not None and can_travel(self._name, arguments):
                        calls.append(ToolCall(self._call_id(), self._name, arguments))
                        self._num_calls += 1
                    else:
                        malformed.append(f'{{"name": {json.dumps(self._name)}, "arguments": {self._arguments}}}')
                case MalformedCall():
                    malformed.append(event.text)
        # Halves of characters cannot travel.
        return Piece(text, tuple(calls), tuple(part.encode("utf-8", "backslashreplace").decode() for part in malformed))

    def _call_id(self) -> str:
        return self._journal.call_id(self._num_calls, self._completion)


def can_travel(name: str, arguments: dict[str, Any]) -> bool:
    """JSON that a model wrote may hold what MessagePack cannot: numbers beyond 64 bits, halves of characters."""
    try:
        encode(ToolCall("", name, arguments))
    except (OverflowError, ValueError, RecursionError):
        return False
    return True
