"""Call: what the user holds for a request."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterator
from typing import Any, Generic, Literal, TypeVar, cast, overload

from deepserve._client import Client
from deepserve._current_client import current_client
from deepserve._event_loop import refuse_on_loop
from deepserve._inbox import Deadline, Inbox
from deepserve._stream import StreamReader
from deepserve.errors import DeepServeError
from deepserve.protocol.messages import Timings

R = TypeVar("R")
T = TypeVar("T")


class Call(Generic[R]):
    """A spawned call. (Modal: `FunctionCall`.)

    id: to quote, and to find it again with `Call.from_id`. Under `deepserve up` it goes on when the script ends.
    """

    __slots__ = ("_client", "_inbox", "_label")

    def __init__(self, client: Client, inbox: Inbox, label: str) -> None:
        self._client = client
        self._inbox = inbox
        self._label = label
        inbox.holders += 1

    @classmethod
    def from_id(cls, call_id: str) -> Call[Any]:
        """A call by its id; under `deepserve up` also one of another process, while its result is kept.

        What is unknown shows at `get()`, as Refused. Raises TypeError for what is no text.
        """
        if not isinstance(call_id, str):
            raise TypeError(f"Call.from_id takes a call's id, not {call_id!r}")
        client = current_client()
        inbox = client.inboxes.find(call_id)
        return Call(client, inbox if inbox is not None else client.attach(call_id), call_id)

    @property
    def get(self) -> GetVerb[R]:
        """`call.get(timeout=)` waits for the result; `await call.get.aio(timeout=)` is its twin."""
        return GetVerb(self)

    @property
    def stream(self: Call[Iterator[T]]) -> StreamVerb[T]:
        """`call.stream(from_offset=, with_offset=)` iterates over a generator's items; `.aio` is its twin."""
        return StreamVerb(self)

    @property
    def id(self) -> str:
        return self._inbox.request_id

    @property
    def arg(self) -> R:
        """This very Call, typed as its result: `square.remote(call.arg)` satisfies a type checker."""
        return cast(R, self)

    @property
    def timings(self) -> Timings | None:
        """Where it ran (job, task, pod), its attempts and who paid for them, milliseconds; None until it is done."""
        return self._inbox.finished.timings if self._inbox.finished is not None else None

    def done(self) -> bool:
        """It has finished, well or not. Never blocks."""
        return self._inbox.is_over

    def status(self) -> str:
        """`pending`, or how it ended: ok, error, timeout, cancelled, pod_lost, startup_failed, refused, lost."""
        if self._inbox.finished is not None:
            return self._inbox.finished.outcome.kind
        return "pending" if self._inbox.error is None else "lost"

    def cancel(self, force: bool = False) -> None:
        """Stop it, and the calls that it made. `force`: its pod is killed without a grace. A finished call stays."""
        if not self._inbox.is_over:
            self._client.cancel(self.id, force=bool(force))

    def __repr__(self) -> str:
        return f"<deepserve.Call {self.id} of {self._label}: {self.status()}>"

    def __reduce__(self) -> Any:
        return Call.from_id, (self.id,)

    def __del__(self) -> None:
        try:
            inbox, client = self._inbox, self._client
        except AttributeError:  # its construction failed
            return
        inbox.holders -= 1
        if inbox.holders == 0:
            client.inboxes.release(inbox)
            if inbox.taken is not None and client.controller.is_embedded and not client.is_pod:
                client.outgoing.forget_later(inbox.request_id)
            elif inbox.taken is None:
                client.inboxes.discard_unread(inbox)  # the copy that came here; the kept one can still be asked for

    def _take(self) -> Any:
        """The value of a finished call, decoded once for all who hold it in this process."""
        inbox = self._inbox
        with inbox.taking:
            if inbox.taken is None:
                inbox.taken = (self._client.values.result(inbox, self._label),)
            return inbox.taken[0]


class GetVerb(Generic[R]):
    """`call.get(timeout=)` and `await call.get.aio(timeout=)`."""

    __slots__ = ("_call",)

    def __init__(self, call: Call[R]) -> None:
        self._call = call

    def __call__(self, timeout: float | None = None) -> R:
        """Wait at most `timeout` seconds for the result. Raises TimeoutError while the call goes on, or its error."""
        refuse_on_loop("Call.get")
        call, deadline = self._call, Deadline.after(timeout)
        while not _is_over(call):
            if not call._client.waiting.for_news(call._inbox, deadline.left_s) and deadline.left_s == 0:
                raise TimeoutError(f"call {call.id} has no result after {timeout} s (it goes on)")
        return cast(R, call._take())

    async def aio(self, timeout: float | None = None) -> R:
        call, deadline = self._call, Deadline.after(timeout)
        while not _is_over(call):
            if not await call._client.waiting.for_news_async(call._inbox, deadline.left_s) and deadline.left_s == 0:
                raise TimeoutError(f"call {call.id} has no result after {timeout} s (it goes on)")
        return cast(R, call._take())


def _is_over(call: Call[Any]) -> bool:
    """Raises DeepServeError for a stream that nobody has read to its end, and that did not fail."""
    inbox, finished = call._inbox, call._inbox.finished
    if inbox.is_group:
        inbox.refuse_stream()
    is_stream = inbox.is_stream or inbox.items or (finished is not None and finished.count)
    if is_stream and inbox.taken is None and (finished is None or finished.outcome.is_ok):
        raise DeepServeError(f"call {call.id} is a stream: iterate over call.stream()")
    return inbox.is_over


class StreamVerb(Generic[T]):
    """`call.stream(...)` and `call.stream.aio(...)`: the items of a generator's call."""

    __slots__ = ("_call",)

    def __init__(self, call: Call[Any]) -> None:
        self._call = call

    @overload
    def __call__(self, from_offset: int | None = None, with_offset: Literal[False] = False) -> Iterator[T]: ...
    @overload
    def __call__(self, from_offset: int | None = None, *, with_offset: Literal[True]) -> Iterator[tuple[int, T]]: ...
    def __call__(self, from_offset: int | None = None, with_offset: bool = False) -> Iterator[Any]:
        """Items as they come, from where the last reader of this process stopped, or from `from_offset`.

        Leaving the loop leaves the call as it is; it waits while nobody reads on. with_offset: (offset, item). Raises
        the call's error after its last item, ItemsGone for items that were read too long ago (the last 8 MiB that
        were taken can be had again), and DeepServeError for a call that is no stream.
        """
        refuse_on_loop("Call.stream")
        reader = self._reader(from_offset)
        return ((offset, item) if with_offset else item for offset, item in reader.items())

    @overload
    def aio(self, from_offset: int | None = None, with_offset: Literal[False] = False) -> AsyncIterator[T]: ...
    @overload
    def aio(self, from_offset: int | None = None, *, with_offset: Literal[True]) -> AsyncIterator[tuple[int, T]]: ...
    async def aio(self, from_offset: int | None = None, with_offset: bool = False) -> AsyncIterator[Any]:
        async for offset, item in self._reader(from_offset).items_async():
            yield (offset, item) if with_offset else item

    def _reader(self, from_offset: int | None) -> StreamReader:
        call = self._call
        if from_offset is not None and (not isinstance(from_offset, int) or from_offset < 0):
            raise ValueError(f"from_offset={from_offset!r} is no position in a stream: give 0 or more")
        call._inbox.refuse_stream()
        return StreamReader(call._client, call._inbox, call._label, holder=call, from_offset=from_offset)
