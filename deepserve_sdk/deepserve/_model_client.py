"""Requests to hosted models over the process's client; in pods they are children of the running task's request."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterator
from typing import Any, TypeVar

import msgspec

from deepserve._client import Client
from deepserve._current_client import current_client
from deepserve._definition import Definition
from deepserve._engine_packages import require_engine
from deepserve._event_loop import refuse_on_loop
from deepserve._inbox import Inbox, StreamItem
from deepserve._model_request import ModelInput
from deepserve.errors import ModelError, SerializationError, StartupFailed
from deepserve.protocol.messages import RequestKind, Value
from deepserve.protocol.model_io import (
    ChatInput,
    CompletionInput,
    ContextInput,
    Embedded,
    EmbedInput,
    Generated,
    GeneratedDelta,
)

T = TypeVar("T")
AnyInput = ModelInput | ContextInput | EmbedInput
METHODS: dict[type[Any], str] = {
    ChatInput: "chat",
    CompletionInput: "generate",
    ContextInput: "cache",
    EmbedInput: "embed",
}
"""What the executors call a request with such an input."""


class ClientRequests:
    """ModelRequests to one model: it and its tokenizer are made known to the controller before the first. timeout_s:
    how long each may run, where positive."""

    def __init__(self, model: Definition, tokenizer: Definition, timeout_s: float = 0.0) -> None:
        self._model = model
        self._tokenizer = tokenizer
        self._timeout_s = timeout_s

    def ask(self, value: ModelInput, verb: str, context_id: str = "") -> Generated:
        return self._ask(value, verb, Generated, context_id)

    async def ask_aio(self, value: ModelInput, verb: str, context_id: str = "") -> Generated:
        return await self._ask_aio(value, verb, Generated, context_id)

    def cache(self, value: ContextInput, verb: str) -> Generated:
        return self._ask(value, verb, Generated, value.context_id)

    async def cache_aio(self, value: ContextInput, verb: str) -> Generated:
        return await self._ask_aio(value, verb, Generated, value.context_id)

    def embed(self, value: EmbedInput, verb: str) -> Embedded:
        return self._ask(value, verb, Embedded)

    async def embed_aio(self, value: EmbedInput, verb: str) -> Embedded:
        return await self._ask_aio(value, verb, Embedded)

    def stream(self, value: ModelInput, verb: str, context_id: str = "") -> Deltas:
        refuse_on_loop(verb)
        return Deltas(self._open(value, verb, "stream", context_id))

    def stream_aio(self, value: ModelInput, verb: str, context_id: str = "") -> Deltas:
        return Deltas(self._open(value, verb, "stream", context_id))

    def _ask(self, value: AnyInput, verb: str, kind: type[T], context_id: str = "") -> T:
        refuse_on_loop(verb)
        request = self._open(value, verb, "call", context_id)
        try:
            while not request.inbox.is_over:
                request.client.waiting.for_news(request.inbox)
            return request.result(kind)
        finally:
            request.end()

    async def _ask_aio(self, value: AnyInput, verb: str, kind: type[T], context_id: str = "") -> T:
        request = self._open(value, verb, "call", context_id)
        try:
            while not request.inbox.is_over:
                await request.client.waiting.for_news_async(request.inbox)
            return request.result(kind)
        finally:
            request.end()

    def _open(self, value: AnyInput, verb: str, kind: RequestKind, context_id: str) -> _Request:
        try:
            payload = msgspec.msgpack.encode(value)
        except UnicodeEncodeError:
            from deepserve_http.lone_surrogates import find_lone_surrogate  # few need it

            raise SerializationError(f"{verb}: {find_lone_surrogate(msgspec.to_builtins(value))}") from None
        except (TypeError, ValueError, OverflowError, RecursionError) as error:
            raise SerializationError(f"{self._model.label}: messages and tools must be plain data: {error}") from None
        client = current_client(self._model.spec.environment if self._model.spec is not None else "")
        require_engine(client.controller)
        client.define(self._tokenizer)
        described = Value("msgpack", len(payload))
        method = METHODS[type(value)]
        inbox = client.open_request(
            self._model, kind, described, payload, method=method, context_id=context_id, timeout_s=self._timeout_s
        )
        return _Request(client, inbox, self._model.label)


class _Request:
    """A request that was opened; `end` cancels it unless it is over."""

    def __init__(self, client: Client, inbox: Inbox, label: str) -> None:
        self.client = client
        self.inbox = inbox
        self._label = label
        self._ended = False

    def result(self, kind: type[T]) -> T:
        """The whole. Raises the request's error; for a model that cannot be loaded the reason itself."""
        try:
            decoded: Any = self.client.values.result(self.inbox, self._label)
        except StartupFailed as error:
            if isinstance(error.__cause__, ModelError):
                raise error.__cause__ from None
            raise
        return msgspec.convert(decoded, kind)

    def end(self) -> None:
        if self._ended:
            return
        self._ended = True
        if not self.inbox.is_over and self.client.closed is None:
            self.client.cancel(self.inbox.request_id)
        self.client.inboxes.drop(self.inbox)


class Deltas:
    """A stream's pieces; the same object serves `for` and `async for`."""

    def __init__(self, request: _Request) -> None:
        self.generated: Generated | None = None
        self._request = request

    def __iter__(self) -> Iterator[GeneratedDelta]:
        request = self._request
        try:
            while self._wants_more():
                request.client.waiting.for_news(request.inbox)
                yield from self._arrived()
            self.generated = request.result(Generated)
        finally:
            self.close()

    async def __aiter__(self) -> AsyncIterator[GeneratedDelta]:
        request = self._request
        try:
            while self._wants_more():
                await request.client.waiting.for_news_async(request.inbox)
                for delta in self._arrived():
                    yield delta
            self.generated = request.result(Generated)
        finally:
            self.close()

    def close(self) -> None:
        """Cancels the request unless it is over."""
        self._request.end()

    async def aclose(self) -> None:
        self.close()

    def __del__(self) -> None:
        self.close()

    def _wants_more(self) -> bool:
        inbox = self._request.inbox
        is_over = inbox.is_over  # looked at before the items, which come before the end
        return bool(inbox.items) or not is_over

    def _arrived(self) -> Iterator[GeneratedDelta]:
        inbox = self._request.inbox
        while inbox.items:
            item = inbox.items.popleft()
            assert isinstance(item.message, StreamItem)
            self._request.client.readers.took(inbox, item.message.value)
            yield msgspec.msgpack.decode(item.payload, type=GeneratedDelta)
