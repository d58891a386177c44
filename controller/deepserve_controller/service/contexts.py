"""Contexts of models: prompt starts that users keep by name, so that any executor can serve them."""

from __future__ import annotations

import time
from collections import OrderedDict
from collections.abc import Callable

import msgspec

from deepserve.protocol.messages import OpenRequest, Outcome
from deepserve.protocol.model_io import ContextInput
from deepserve_controller.core.events import Payload

MAX_BYTES = 256 << 20
NUM_EXPIRED = 1000
"""So many of the latest are told apart from those that never were."""
CACHE = "cache"
"""The method that makes a context."""


class Context(msgspec.Struct):
    """data: the ContextInput as it came. label: of the model that it belongs to."""

    label: str
    data: bytes
    ttl_s: float
    expires_s: float


class ContextRefused(Exception):
    def __init__(self, code: str, text: str) -> None:
        super().__init__(text)
        self.outcome = Outcome("refused", text, code=code)


class Contexts:
    """By id, the least recently used first. One is there once the engine has taken it, and lives until nobody has used
    it for its time to live; it ends with the controller. `clock`: in seconds.
    """

    def __init__(self, max_bytes: int = MAX_BYTES, clock: Callable[[], float] = time.monotonic) -> None:
        self._max_bytes = max_bytes
        self._clock = clock
        self._contexts: OrderedDict[str, Context] = OrderedDict()
        self._coming: dict[str, tuple[str, Context]] = {}
        """Id and context, by the request that the engine has not answered yet."""
        self._expired: OrderedDict[str, str] = OrderedDict()
        self._num_bytes = 0

    def __len__(self) -> int:
        return len(self._contexts)

    def opened(self, message: OpenRequest, payload: Payload, label: str) -> Payload:
        """What the tokenizer gets of a request that makes a context, or continues one.

        Raises ContextRefused where there is no such context, or no room for one more.
        """
        self._expire()
        if payload.value.segment or payload.value.format != "msgpack":
            raise ContextRefused("", f"{label}: messages around a context must come inline, as msgpack")
        if message.method == CACHE:
            self._coming[message.request_id] = message.context_id, self._made(message.context_id, label, payload.data)
            return payload
        return with_context(payload, self._used(message.context_id, label).data)

    def finished(self, request_id: str, outcome: Outcome) -> None:
        """The engine has answered: from now on the context can be used."""
        context_id, context = self._coming.pop(request_id, ("", None))
        if context is None or not outcome.is_ok:
            return
        self._remove(context_id)
        self._expired.pop(context_id, None)
        context.expires_s = self._clock() + context.ttl_s
        self._contexts[context_id] = context
        self._num_bytes += len(context.data)

    def delete(self, context_id: str) -> None:
        """Raises ContextRefused."""
        self._expire()
        self._find(context_id)
        self._remove(context_id)

    def check_invariants(self) -> None:
        assert self._num_bytes == sum(len(context.data) for context in self._contexts.values()), self._num_bytes
        assert not self._contexts.keys() & self._expired.keys()

    def _made(self, context_id: str, label: str, data: bytes) -> Context:
        try:
            given = msgspec.msgpack.decode(data, type=ContextInput)
        except msgspec.MsgspecError as error:
            raise ContextRefused("", f"{label}: this makes no context: {error}") from None
        if given.context_id != context_id or not 0 < given.ttl_s < float("inf"):
            raise ContextRefused("", f"{label}: a context needs an id and a time to live above 0, not {given.ttl_s!r}")
        num_coming = sum(len(context.data) for _, context in self._coming.values())
        if self._num_bytes + num_coming + len(data) > self._max_bytes:
            text = f"contexts may take {self._max_bytes >> 20} MiB in all, and {len(self)} take {self._num_bytes} bytes"
            raise ContextRefused("", f"{label}: no room for a context of {len(data)} bytes: {text}")
        return Context(label, data, given.ttl_s, 0.0)

    def _used(self, context_id: str, label: str) -> Context:
        context = self._find(context_id)
        if context.label != label:
            raise ContextRefused("context", f"context {context_id!r} is of {context.label}, not of {label}")
        context.expires_s = self._clock() + context.ttl_s
        self._contexts.move_to_end(context_id)
        return context

    def _find(self, context_id: str) -> Context:
        context = self._contexts.get(context_id)
        if context is None and context_id in self._expired:
            ttl = self._expired[context_id]
            raise ContextRefused("context_expired", f"context {context_id!r} has expired: nobody used it for {ttl}")
        if context is None:
            raise ContextRefused("context", f"there is no context {context_id!r}: it never was, or was deleted")
        return context

    def _expire(self) -> None:
        now_s = self._clock()
        for context_id in [key for key, context in self._contexts.items() if context.expires_s <= now_s]:
            self._expired[context_id] = f"{self._contexts[context_id].ttl_s:g} s"
            self._remove(context_id)
        while len(self._expired) > NUM_EXPIRED:
            self._expired.popitem(last=False)

    def _remove(self, context_id: str) -> None:
        context = self._contexts.pop(context_id, None)
        if context is not None:
            self._num_bytes -= len(context.data)


def with_context(payload: Payload, context: bytes) -> Payload:
    """A ChatInput with its context; the messages themselves are not decoded. Raises ContextRefused."""
    try:
        fields = msgspec.msgpack.decode(payload.data, type=dict[str, msgspec.Raw])
    except msgspec.MsgspecError as error:
        raise ContextRefused("", f"this is no chat: {error}") from None
    data = msgspec.msgpack.encode({**fields, "context": msgspec.Raw(context)})
    return Payload(msgspec.structs.replace(payload.value, size_bytes=len(data)), data)
