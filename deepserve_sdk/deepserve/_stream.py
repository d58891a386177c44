"""The items of a generator that runs in a pod, taken as they come, with credit granted as they are taken."""

from __future__ import annotations

from collections.abc import AsyncIterator, Generator
from typing import TYPE_CHECKING, Any, Generic, TypeVar, cast

from deepserve._client import Client
from deepserve._inbox import Inbox, StreamItem
from deepserve.errors import ItemsGone

if TYPE_CHECKING:
    from typing import Self

T = TypeVar("T")

_END = object()
_WAIT = object()


class StreamReader:
    """One that reads a request's items.

    holder: the Call that must live as long as the reader; leaving leaves the call as it is, and there may be several
    readers, each with a place of its own. Without one, leaving the loop early cancels the request.
    from_offset: where one with a holder begins; None: where the last one of this process stopped.
    """

    def __init__(
        self, client: Client, inbox: Inbox, label: str, *, holder: object = None, from_offset: int | None = None
    ) -> None:
        self._client = client
        self._inbox = inbox
        self._label = label
        self._holder = holder
        self._from_offset = from_offset
        self._source: Inbox | None = inbox if holder is None else None
        self._has_left = False

    def items(self) -> Generator[tuple[int, Any]]:
        try:
            source = self._begin()
            while (taken := self._take(source)) is not _END:
                if taken is _WAIT:
                    self._client.waiting.for_news(source)
                else:
                    yield taken
        finally:
            self.leave()

    async def items_async(self) -> AsyncIterator[tuple[int, Any]]:
        try:
            source = self._begin()
            while (taken := self._take(source)) is not _END:
                if taken is _WAIT:
                    await self._client.waiting.for_news_async(source)
                else:
                    yield taken
        finally:
            self.leave()

    def leave(self) -> None:
        """Nobody reads on. May be called twice."""
        if self._has_left:
            return
        self._has_left = True
        if self._holder is None:
            self._client.abandon(self._inbox)
        elif self._source is not None:
            self._client.readers.leave(self._inbox, self._source)

    def _begin(self) -> Inbox:
        """At the first item that is asked for: a reader that never reads would hold up the others."""
        if self._source is None:
            self._inbox.refuse_stream()
            from_offset = self._inbox.position if self._from_offset is None else self._from_offset
            self._source = self._client.readers.begin(self._inbox, from_offset)
        return self._source

    def _take(self, source: Inbox) -> Any:
        """The next (offset, item), _WAIT, or _END. Raises the call's error after its last item."""
        finished, error = source.finished, source.error  # looked at before the items, which come before the end
        if source.items:
            message, payload = source.items.popleft()
            assert isinstance(message, StreamItem)
            self._inbox.position = message.offset + 1
            self._client.readers.took(source, message.value)
            return message.offset, self._client.values.decode(message.value, payload)
        if source.gap is not None:
            raise self._gone(*source.gap)
        if finished is not None:
            if self._holder is not None:
                self._inbox.refuse_stream()
            self._client.values.result(source, self._label)
            self._inbox.taken = (None,)
            return _END
        if error is not None:
            raise source.own_error() or error
        return _WAIT

    def _gone(self, first: int, end: int) -> ItemsGone:
        items = f"item {first}" if end == first + 1 else f"items {first} to {end - 1}"
        return ItemsGone(f"{self._label}: {items} of call {self._inbox.request_id} were read before and are gone")


class RemoteItems(Generic[T]):
    """What a generator's `remote` gives: an iterator that stops the generator when it is closed or let go, read or
    not."""

    def __init__(self, reader: StreamReader) -> None:
        self._reader = reader
        self._items = reader.items()

    def __iter__(self) -> Self:
        return self

    def __next__(self) -> T:
        return cast(T, next(self._items)[1])

    def close(self) -> None:
        self._items.close()
        self._reader.leave()

    def __del__(self) -> None:
        self._reader.leave()
