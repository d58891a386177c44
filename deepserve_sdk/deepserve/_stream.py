"""The items of a generator that runs in a pod, taken as they come, with credit granted as they are taken."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterator
from typing import Any

from deepserve._client import Client
from deepserve._inbox import Inbox
from deepserve.errors import ControllerLost, DeepServeError
from deepserve.protocol.messages import StreamItem

CREDIT_STEP = 32
"""Credit is granted in steps of this many items."""

_END = object()
_WAIT = object()


class StreamReader:
    """One reader at a time per request. `cancel_on_leave`: leaving the loop early cancels the request."""

    def __init__(self, client: Client, inbox: Inbox, label: str, *, cancel_on_leave: bool = False) -> None:
        self._client = client
        self._inbox = inbox
        self._label = label
        self._cancel_on_leave = cancel_on_leave
        self._unacknowledged = 0

    def items(self) -> Iterator[tuple[int, Any]]:
        try:
            while (taken := self._take()) is not _END:
                if taken is _WAIT:
                    self._client.wait(self._inbox)
                else:
                    yield taken
        finally:
            self._leave()

    async def items_async(self) -> AsyncIterator[tuple[int, Any]]:
        try:
            while (taken := self._take()) is not _END:
                if taken is _WAIT:
                    await self._client.wait_async(self._inbox)
                else:
                    yield taken
        finally:
            self._leave()

    def _take(self) -> Any:
        """The next (offset, item), _WAIT, or _END. Raises the call's error after its last item."""
        inbox = self._inbox
        if inbox.items:
            item = inbox.items.popleft()
            assert isinstance(item.message, StreamItem)
            self._acknowledge()
            return item.message.offset, self._client.decode_item(item.message, item.payload)
        if inbox.finished is not None:
            self._client.result(inbox, self._label)
            if inbox.next_offset < inbox.finished.count:
                raise DeepServeError(
                    f"{self._label}: {inbox.finished.count - inbox.next_offset} of {inbox.finished.count} items "
                    f"of call {inbox.request_id} are gone"
                )
            return _END
        if inbox.error is not None:
            raise inbox.error
        return _WAIT

    def _acknowledge(self) -> None:
        self._unacknowledged += 1
        if self._unacknowledged >= CREDIT_STEP and not self._inbox.is_over:
            self._client.grant(self._inbox.request_id, self._unacknowledged)
            self._unacknowledged = 0

    def _leave(self) -> None:
        if not self._cancel_on_leave:
            return
        self._client.drop(self._inbox)
        if not self._inbox.is_over:
            try:
                self._client.cancel(self._inbox.request_id)
            except ControllerLost:
                pass
