"""Requests to a model that a test has scripted (`deepserve.testing`): they go to the test's process, to no engine."""

from __future__ import annotations

import socket
from collections.abc import AsyncIterator, Callable, Iterator
from typing import Literal

import msgspec

from deepserve._model_request import AsyncGenerationStream, GenerationStream, ModelInput, ModelRequests
from deepserve.errors import ModelError, ScriptExhausted
from deepserve.protocol.model_io import ChatInput, CompletionInput, ContextInput, Generated, GeneratedDelta

SIZE_BYTES = 8


NOTHING_SAID = Generated("", "stop", 0, 0)
"""The answer to a start that is only to be kept."""


class Asked(msgspec.Struct, frozen=True):
    """One of chat and completion is there; none where it is asked whether the model has a script."""

    model: str
    chat: ChatInput | None = None
    completion: CompletionInput | None = None

    @property
    def value(self) -> ModelInput | None:
        return self.chat or self.completion


class Answer(msgspec.Struct, frozen=True):
    kind: Literal["generated", "unscripted", "exhausted"]
    generated: Generated | None = None
    text: str = ""


class ScriptedRequests:
    """ModelRequests; `others` gives those that are asked where the test has no script for the model."""

    def __init__(self, path: str, model: str, others: Callable[[], ModelRequests]) -> None:
        self._path = path
        self._model = model
        self._others = others

    @property
    def is_scripted(self) -> bool:
        return self._send(Asked(self._model)) is not None

    def ask(self, value: ModelInput, verb: str, context_id: str = "") -> Generated:
        generated = self._ask_all(value)
        return self._others().ask(value, verb, context_id) if generated is None else generated

    async def ask_aio(self, value: ModelInput, verb: str, context_id: str = "") -> Generated:
        generated = self._ask_all(value)
        return await self._others().ask_aio(value, verb, context_id) if generated is None else generated

    def stream(self, value: ModelInput, verb: str, context_id: str = "") -> GenerationStream:
        generated = self._ask(value)
        return self._others().stream(value, verb, context_id) if generated is None else ScriptedDeltas(generated)

    def stream_aio(self, value: ModelInput, verb: str, context_id: str = "") -> AsyncGenerationStream:
        generated = self._ask(value)
        return self._others().stream_aio(value, verb, context_id) if generated is None else ScriptedDeltas(generated)

    def cache(self, value: ContextInput, verb: str) -> Generated:
        return NOTHING_SAID if self.is_scripted else self._others().cache(value, verb)

    async def cache_aio(self, value: ContextInput, verb: str) -> Generated:
        return NOTHING_SAID if self.is_scripted else await self._others().cache_aio(value, verb)

    def _ask_all(self, value: ModelInput) -> Generated | None:
        """Each of the n answers is one of the script."""
        first, *others = [self._ask(value) for _ in range(value.params.n or 1)]
        if first is None:
            return None
        return msgspec.structs.replace(first, others=[other for other in others if other is not None])

    def _ask(self, value: ModelInput) -> Generated | None:
        """None where the model has no script. Raises ScriptExhausted, ModelError."""
        is_chat = isinstance(value, ChatInput)
        return self._send(Asked(self._model, chat=value) if is_chat else Asked(self._model, completion=value))  # type: ignore[arg-type]

    def _send(self, asked: Asked) -> Generated | None:
        try:
            with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as connection:
                connection.connect(self._path)
                write_frame(connection, msgspec.msgpack.encode(asked))
                answer = msgspec.msgpack.decode(read_frame(connection), type=Answer)
        except (OSError, EOFError) as error:
            raise ModelError(f"the test that scripts model {self._model!r} does not answer: {error}") from error
        if answer.kind == "exhausted":
            raise ScriptExhausted(answer.text)
        return answer.generated


class ScriptedDeltas:
    """The answer word by word."""

    def __init__(self, whole: Generated) -> None:
        self._whole = whole
        self.generated: Generated | None = None

    def __iter__(self) -> Iterator[GeneratedDelta]:
        words = self._whole.text.split(" ")
        for number, word in enumerate(words):
            yield GeneratedDelta(word if number == len(words) - 1 else f"{word} ")
        if self._whole.tool_calls:
            yield GeneratedDelta(tool_calls=self._whole.tool_calls)
        self.generated = self._whole

    async def __aiter__(self) -> AsyncIterator[GeneratedDelta]:
        for delta in iter(self):
            yield delta

    def close(self) -> None: ...

    async def aclose(self) -> None: ...


def write_frame(connection: socket.socket, data: bytes) -> None:
    connection.sendall(len(data).to_bytes(SIZE_BYTES, "little") + data)


def read_frame(connection: socket.socket) -> bytes:
    return _read(connection, int.from_bytes(_read(connection, SIZE_BYTES), "little"))


def _read(connection: socket.socket, size: int) -> bytes:
    data = b""
    while len(data) < size:
        part = connection.recv(size - len(data))
        if not part:
            raise EOFError("the connection ended")
        data += part
    return data
