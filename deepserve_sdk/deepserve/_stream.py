"""The items of a generator that runs in a pod, taken as they come, with credit granted as they are taken."""

from __future__ import annotations

from collections.abc import AsyncIterator, Generator
from typing import TYPE_CHECKING, Any, Generic, TypeVar, cast

from deepserve._client import Client
from deepserve._inbox import Inbox
from deepserve.errors import DeepServeError
from deepserve.protocol.messages import StreamItem

if TYPE_CHECKING:
    from typing import Self

T = TypeVar("T")

CREDIT_STEP = 32
"""Credit is granted in steps of this many items."""

_END = object()
_WAIT = object()


class StreamReader:
    """One reader at a time per request.

    holder: the Call that must live as long as the reader; without one, leaving the loop early cancels the request.
    """

    def __init__(self, client: Client, inbox: Inbox, label: str, *, holder: object = None) -> None:
        self._client = client
        self._inbox = inbox
        self._label = label
        self._holder = holder
        self._has_left = False

    def items(self) -> Generator[tuple[int, Any]]:
        try:
            while (taken := self._take()) is not _END:
                if taken is _WAIT:
                    self._client.wait(self._inbox)
                else:
                    yield taken
        finally:
            self.leave()

    async def items_async(self) -> AsyncIterator[tuple[int, Any]]:
        try:
            while (taken := self._take()) is not _END:
                if taken is _WAIT:
                    await self._client.wait_async(self._inbox)
                else:
                    yield taken
        finally:
            self.leave()

    def leave(self) -> None:
        """Nobody reads on. May be called twice."""
        if self._holder is None and not self._has_left:
            self._has_left = True
            self._client.abandon(self._inbox)

    def _take(self) -> Any:
        """The next (offset, item), _WAIT, or _END. Raises the call's error after its last item."""
        inbox = self._inbox
        finished, error = inbox.finished, inbox.error  # looked at before the items, which come before the end
        if inbox.items:
            item = inbox.items.popleft()
            assert isinstance(item.message, StreamItem)
            self._client.acknowledge(inbox, item.message.offset + 1, CREDIT_STEP)
            return item.message.offset, self._client.decode_item(item.message, item.payload)
        if finished is not None:
            missing = inbox.next_offset < finished.count
            if missing and self._client.settle(inbox):
                return self._take()
            self._client.result(inbox, self._label)
            if missing:
                raise DeepServeError(
                    f"{self._label}: {finished.count - inbox.next_offset} of {finished.count} items "
                    f"of call {inbox.request_id} are gone"
                )
            inbox.taken = (None,)
            return _END
        if error is not None:
            raise error
        return _WAIT


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
