"""Contexts of models: prompt starts that users keep by name, so that any executor can serve them."""

from __future__ import annotations

import time
from collections import OrderedDict
from collections.abc import Callable, Collection, Container
from contextlib import suppress
from typing import NamedTuple

import msgspec

from deepserve.protocol.messages import OpenRequest, Outcome
from deepserve.protocol.model_io import ContextInput
from deepserve_controller.core.events import Payload
from deepserve_controller.errors import StoreUnreadable, StoreUnwritable
from deepserve_controller.service.store import NO_RECORDS, Records

MAX_BYTES = 256 << 20
NUM_EXPIRED = 1000
"""So many of the latest are told apart from those that never were."""
CACHE = "cache"
"""The method that makes a context."""


class Context(msgspec.Struct):
    """data: the ContextInput. label: of the model that it belongs to. created_at: Unix time. expires_s: by the clock of
    the controller that runs."""

    label: str
    data: bytes
    ttl_s: float
    expires_s: float
    num_tokens: int = 0
    created_at: float = 0.0


class ContextInfo(msgspec.Struct, frozen=True):
    """What is told of a context. expires_in_s: unless it is used before."""

    context_id: str
    label: str
    num_tokens: int
    ttl_s: float
    expires_in_s: float
    created_at: float


class _Underway(NamedTuple):
    """A request that makes a context or continues one.  made: the one that is there once the engine has answered."""

    context_id: str
    label: str
    ttl_s: float
    made: Context | None = None


class _Told(msgspec.Struct):
    """Of what the engine answered: see Generated."""

    prompt_tokens: int = 0


class ContextRefused(Exception):
    def __init__(self, code: str, text: str) -> None:
        super().__init__(text)
        self.outcome = Outcome("refused", text, code=code)


class Contexts:
    """By id, the least recently used first. One is there once the engine has taken it, and lives until nobody has used
    it for its time to live. `clock`: in seconds.

    Those in `records` are there again from the start, for another time to live: engines compute them anew when they are
    used. Raises StoreUnreadable.
    """

    def __init__(
        self,
        max_bytes: int = MAX_BYTES,
        clock: Callable[[], float] = time.monotonic,
        records: Records = NO_RECORDS,
    ) -> None:
        self._max_bytes = max_bytes
        self._records = records
        self._clock = clock
        self._contexts: OrderedDict[str, Context] = OrderedDict()
        self._underway: dict[str, _Underway] = {}
        """By request id, until the engine has answered."""
        self.on_ttl: Callable[[str, str, float], None] = lambda label, context_id, ttl_s: None
        """Called where engines of this label may have a context with another time to live: 0 where it ended before its
        time. Of those whose time is over, they know by themselves."""
        self._expired: OrderedDict[str, str] = OrderedDict()
        self._num_bytes = 0
        for context_id, described in records.all():
            self._restore(context_id, described)

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
            context = self._made(message.context_id, label, payload.data)
            self._underway[message.request_id] = _Underway(message.context_id, label, context.ttl_s, context)
            return Payload(msgspec.structs.replace(payload.value, size_bytes=len(context.data)), context.data)
        context = self._used(message.context_id, label)
        continued = with_context(payload, context.data)
        self._underway[message.request_id] = _Underway(message.context_id, label, context.ttl_s)
        return continued

    def finished(self, request_id: str, outcome: Outcome, result: bytes = b"") -> Outcome:
        """The engine has answered: from now on a context that it made can be used.

        One that was deleted meanwhile, or was not made, it may have all the same. Returns what the caller is told:
        another outcome where the context could not be kept.
        """
        underway = self._underway.pop(request_id, None)
        if underway is None:
            return outcome
        if underway.made is not None and outcome.is_ok:
            try:
                self._keep(underway.context_id, underway.made, result)
            except StoreUnwritable as error:
                outcome = Outcome("refused", f"context {underway.context_id!r} is not kept: {error}")
        context = self._contexts.get(underway.context_id)
        ttl_s = context.ttl_s if context is not None else 0.0
        if ttl_s != underway.ttl_s:
            self.on_ttl(underway.label, underway.context_id, ttl_s)
        return outcome

    def infos(self, labels: Container[str] | None = None) -> list[ContextInfo]:
        """Of all, or of those of some models; the least recently used first."""
        self._expire()
        living = self._contexts.items()
        return [self._info(key, context) for key, context in living if labels is None or context.label in labels]

    def info(self, context_id: str, labels: Container[str] | None = None) -> ContextInfo:
        """Raises ContextRefused."""
        return self._info(context_id, self._allowed(context_id, labels))

    def extend(self, context_id: str, ttl_s: float, labels: Container[str] | None = None) -> ContextInfo:
        """Let it live for another time, from now on and after each use. Raises ContextRefused, StoreUnwritable."""
        context = self._allowed(context_id, labels)
        if not 0 < ttl_s < float("inf"):
            raise ContextRefused("", f"context {context_id!r}: a time to live must be above 0 s, not {ttl_s!r}")
        given = msgspec.msgpack.decode(context.data, type=ContextInput)
        data = msgspec.msgpack.encode(msgspec.structs.replace(given, ttl_s=ttl_s))
        extended = msgspec.structs.replace(context, data=data, ttl_s=ttl_s, expires_s=self._clock() + ttl_s)
        self._records.put(context_id, msgspec.msgpack.encode(extended))
        self._num_bytes += len(data) - len(context.data)
        self._contexts[context_id] = extended
        self.on_ttl(context.label, context_id, ttl_s)
        return self._info(context_id, extended)

    def delete(self, context_id: str, labels: Container[str] | None = None) -> None:
        """Raises ContextRefused, StoreUnwritable."""
        context = self._allowed(context_id, labels)
        self._records.remove(context_id)
        self._drop(context_id)
        self.on_ttl(context.label, context_id, 0.0)

    def delete_of_key(self, key_id: str) -> None:
        """Those that were made with a key which is no more, or are just being made."""
        self._expire()
        for request_id, each in self._underway.items():
            if each.context_id.startswith(prefix_of(key_id)):
                self._underway[request_id] = each._replace(made=None)
        over = {name: each.label for name, each in self._contexts.items() if name.startswith(prefix_of(key_id))}
        self._end(over)
        for context_id, label in over.items():
            self.on_ttl(label, context_id, 0.0)

    def check_invariants(self) -> None:
        assert self._num_bytes == sum(len(context.data) for context in self._contexts.values()), self._num_bytes
        assert not self._contexts.keys() & self._expired.keys()

    def _keep(self, context_id: str, context: Context, result: bytes) -> None:
        context.expires_s = self._clock() + context.ttl_s
        context.num_tokens = msgspec.msgpack.decode(result, type=_Told).prompt_tokens if result else 0
        self._records.put(context_id, msgspec.msgpack.encode(context))
        self._drop(context_id)
        self._expired.pop(context_id, None)
        self._contexts[context_id] = context
        self._num_bytes += len(context.data)

    def _made(self, context_id: str, label: str, data: bytes) -> Context:
        try:
            given = msgspec.msgpack.decode(data, type=ContextInput)
        except msgspec.MsgspecError as error:
            raise ContextRefused("", f"{label}: this makes no context: {error}") from None
        if given.context_id != context_id or not 0 < given.ttl_s < float("inf"):
            raise ContextRefused("", f"{label}: a context needs an id and a time to live above 0, not {given.ttl_s!r}")
        if given.continues:
            data = self._continued(given, label)
        num_coming = sum(len(each.made.data) for each in self._underway.values() if each.made is not None)
        if self._num_bytes + num_coming + len(data) > self._max_bytes:
            text = f"contexts may take {self._max_bytes >> 20} MiB in all, and {len(self)} take {self._num_bytes} bytes"
            raise ContextRefused("", f"{label}: no room for a context of {len(data)} bytes: {text}")
        return Context(label, data, given.ttl_s, 0.0, created_at=time.time())

    def _continued(self, given: ContextInput, label: str) -> bytes:
        """One whose messages begin with another's."""
        before = msgspec.msgpack.decode(self._used(given.continues, label).data, type=ContextInput)
        if given.tools:
            text = f"tools stand at the start of a prompt: {given.continues!r} has those of what continues it"
            raise ContextRefused("", f"{label}: {text}")
        messages = [*before.messages, *given.messages]
        return msgspec.msgpack.encode(ContextInput(given.context_id, messages, given.ttl_s, before.tools))

    def _used(self, context_id: str, label: str) -> Context:
        context = self._find(context_id)
        if context.label != label:
            raise ContextRefused("context", f"context {context_id!r} is of {context.label}, not of {label}")
        context.expires_s = self._clock() + context.ttl_s
        self._contexts.move_to_end(context_id)
        return context

    def _allowed(self, context_id: str, labels: Container[str] | None) -> Context:
        self._expire()
        context = self._find(context_id)
        if labels is not None and context.label not in labels:
            raise ContextRefused("context", f"there is no context {context_id!r} of a model that the key may use")
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
        over = {key: f"{context.ttl_s:g} s" for key, context in self._contexts.items() if context.expires_s <= now_s}
        self._expired |= over
        self._end(over)
        while len(self._expired) > NUM_EXPIRED:
            self._expired.popitem(last=False)

    def _end(self, context_ids: Collection[str]) -> None:
        """They are over, whatever the store says: what it keeps comes back to a later controller, for its time."""
        with suppress(StoreUnwritable):
            self._records.remove(*context_ids)
        for context_id in context_ids:
            self._drop(context_id)

    def _drop(self, context_id: str) -> None:
        context = self._contexts.pop(context_id, None)
        if context is not None:
            self._num_bytes -= len(context.data)

    def _restore(self, context_id: str, described: bytes) -> None:
        try:
            context = msgspec.msgpack.decode(described, type=Context)
        except msgspec.DecodeError as error:
            raise StoreUnreadable(f"the stored context {context_id!r} cannot be read: {error}") from None
        context.expires_s = self._clock() + context.ttl_s
        self._contexts[context_id] = context
        self._num_bytes += len(context.data)

    def _info(self, context_id: str, context: Context) -> ContextInfo:
        left_s = max(0.0, context.expires_s - self._clock())
        return ContextInfo(context_id, context.label, context.num_tokens, context.ttl_s, left_s, context.created_at)


def prefix_of(key_id: str) -> str:
    """So the ids of contexts begin that were made with this key of the OpenAI API."""
    return f"ctx-{key_id}-"


def with_context(payload: Payload, context: bytes) -> Payload:
    """A ChatInput with its context; the messages themselves are not decoded. Raises ContextRefused."""
    try:
        fields = msgspec.msgpack.decode(payload.data, type=dict[str, msgspec.Raw])
    except msgspec.MsgspecError as error:
        raise ContextRefused("", f"this is no chat: {error}") from None
    data = msgspec.msgpack.encode({**fields, "context": msgspec.Raw(context)})
    return Payload(msgspec.structs.replace(payload.value, size_bytes=len(data)), data)
