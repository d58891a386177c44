"""A model that says what a test wrote down, in place of one on a pod."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterator
from typing import Any

from deepserve._model_request import ModelInput
from deepserve.protocol.model_io import ChatInput, Generated, GeneratedDelta, ToolCall


def says(text: str, finish_reason: str = "stop") -> Generated:
    return Generated(text, finish_reason, prompt_tokens=10, completion_tokens=len(text))


def calls(*wanted: tuple[str, dict[str, Any]], malformed: tuple[str, ...] = (), text: str = "") -> Generated:
    made = [ToolCall(f"c{index}", name, arguments) for index, (name, arguments) in enumerate(wanted)]
    return Generated(text, "tool_calls", 10, 5, made, list(malformed))


class Deltas:
    def __init__(self, whole: Generated) -> None:
        self._whole = whole
        self.generated: Generated | None = None
        self.is_closed = False

    def __iter__(self) -> Iterator[GeneratedDelta]:
        for word in self._whole.text.split(" "):
            yield GeneratedDelta(word)
        self.generated = self._whole

    async def __aiter__(self) -> AsyncIterator[GeneratedDelta]:
        for delta in iter(self):
            yield delta

    def close(self) -> None:
        self.is_closed = True

    async def aclose(self) -> None:
        self.is_closed = True


class ScriptedModel:
    """Also its own ModelRequests. asked: every input, in order."""

    def __init__(self, *turns: Generated) -> None:
        self.turns = list(turns)
        self.asked: list[ChatInput] = []
        self.streams: list[Deltas] = []

    @property
    def requests(self) -> ScriptedModel:
        return self

    def ask(self, value: ModelInput, verb: str) -> Generated:
        assert isinstance(value, ChatInput)
        self.asked.append(value)
        return self.turns[len(self.asked) - 1]

    async def ask_aio(self, value: ModelInput, verb: str) -> Generated:
        return self.ask(value, verb)

    def stream(self, value: ModelInput, verb: str) -> Deltas:
        self.streams.append(Deltas(self.ask(value, verb)))
        return self.streams[-1]

    def stream_aio(self, value: ModelInput, verb: str) -> Deltas:
        return self.stream(value, verb)
