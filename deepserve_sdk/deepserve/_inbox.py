"""What has arrived for one request, and who waits for it."""

from __future__ import annotations

import time
from _thread import allocate_lock
from collections import deque
from collections.abc import Callable
from typing import Any, NamedTuple

from deepserve._event_loop import wait_for_wake
from deepserve.errors import DeepServeError
from deepserve.protocol.credit import Taken
from deepserve.protocol.framing import Frame
from deepserve.protocol.map_messages import ItemsFinished
from deepserve.protocol.messages import ItemFinished, RequestFinished, StreamItems, Value


class StreamItem(NamedTuple):
    """offset: its number in the stream."""

    offset: int
    value: Value


class Item(NamedTuple):
    message: StreamItem | ItemFinished | ItemsFinished
    payload: bytes

    @property
    def value(self) -> Value | None:
        """None where there are many in one frame, none of them in a segment."""
        return None if isinstance(self.message, ItemsFinished) else self.message.value


class Inbox:
    """Filled by the reader thread; read by the caller's threads and event loops. Wake-ups fire once."""

    __slots__ = (
        "_ending",
        "_mutex",
        "_wakers",
        "error",
        "finished",
        "gap",
        "group",
        "has_inputs",
        "holders",
        "is_read",
        "is_stream",
        "items",
        "next_offset",
        "payload",
        "position",
        "reader",
        "readers",
        "request_id",
        "taken",
        "taking",
        "untold",
    )

    def __init__(self, request_id: str) -> None:
        self.request_id = request_id
        self.finished: RequestFinished | None = None
        self.payload = b""
        self.is_stream: bool | None = None
        """None where it is not known: of a call that was found by its id."""
        self.items: deque[Item] = deque()
        self.next_offset = 0
        """Of the stream item that is expected next."""
        self.reader = 0
        """The number under which the controller knows who reads a stream here; see AttachRequest."""
        self.readers: list[Inbox] = []
        """Of a stream that is kept: those who read it, each with an inbox of its own."""
        self.position = 0
        """Of a stream that is kept: the item behind the last one that was taken by any of them."""
        self._ending: tuple[RequestFinished, bytes] | None = None
        """How the stream ended, while items are on their way to its reader."""
        self.gap: tuple[int, int] | None = None
        """Stream items from one offset to before another are kept no more."""
        self.untold = Taken()
        """Of a stream's items, to the controller."""
        self.is_read = False
        """The value of `finished` was decoded, with success or without."""
        self.error: Exception | None = None
        """The link ended: nothing more will come."""
        self.has_inputs = False
        """Of a map: inputs were read, or have ended, since its loop looked last."""
        self.group: Any = None
        """Of a spawned map: its GroupResults, shared by all CallGroups of this process."""
        self.holders = 0
        self.taken: tuple[Any] | None = None
        """The decoded value, once a Call has taken it: a large one can be read from its segment only once. Of a stream
        that was read to its end: None."""
        self.taking = allocate_lock()
        self._mutex = allocate_lock()
        self._wakers: list[Callable[[], None]] = []

    @property
    def is_over(self) -> bool:
        return self.finished is not None or self.error is not None

    @property
    def is_group(self) -> bool:
        """Of a map, as far as is known."""
        return self.group is not None or bool(self.items and not isinstance(self.items[0].message, StreamItem))

    def refuse_stream(self) -> None:
        """Raises DeepServeError for what is known to be no stream."""
        if self.is_group:
            raise DeepServeError(f"call {self.request_id} is a group: find it with CallGroup.from_id")
        finished = self.finished
        has_result = finished is not None and finished.outcome.is_ok and finished.value.format != "none"
        if self.is_stream is False or has_result:
            raise DeepServeError(f"call {self.request_id} is no stream: use get()")

    @property
    def has_news(self) -> bool:
        return (
            bool(self.items)
            or self.finished is not None
            or self.error is not None
            or (self.has_inputs or self.gap is not None)
        )

    def put_inputs(self) -> None:
        """Called by whoever reads a map's inputs."""
        with self._mutex:
            self.has_inputs = True
            wakers, self._wakers = self._wakers, []
        for wake in wakers:
            wake()

    def is_finished_by(self, frame: Frame) -> bool:
        """Takes the frame that ends this request, for the one who waits for nothing else. False for any other frame."""
        message = frame.message
        if type(message) is not RequestFinished or message.request_id != self.request_id:
            return False
        self.put_finished(message, frame.payload)
        return True

    # --- the reader thread ---

    def put_finished(self, message: RequestFinished, payload: bytes) -> None:
        with self._mutex:
            if self.reader and self.next_offset < message.count:
                self._ending = message, payload
                return
            self.payload = payload
            self.finished = message
            wakers, self._wakers = self._wakers, []
        for wake in wakers:
            wake()

    def put_item(self, item: Item) -> None:
        with self._mutex:
            self.items.append(item)
            wakers, self._wakers = self._wakers, []
        for wake in wakers:
            wake()

    def put_stream_items(self, message: StreamItems, payload: bytes) -> None:
        with self._mutex:
            if message.offset > self.next_offset and self.gap is None:
                self.gap = self.next_offset, message.offset
            offset, at = message.offset, 0
            for value in message.values:
                size_bytes = 0 if value.segment else value.size_bytes
                self.items.append(Item(StreamItem(offset, value), payload[at : at + size_bytes]))
                offset += 1
                at += size_bytes
            self.next_offset = offset
            if self._ending is not None and offset >= self._ending[0].count:
                self.finished, self.payload = self._ending
            wakers, self._wakers = self._wakers, []
        for wake in wakers:
            wake()

    def close(self, error: Exception) -> None:
        with self._mutex:
            if self.finished is None:
                self.error = error
            wakers, self._wakers = self._wakers, []
        for wake in wakers:
            wake()

    # --- those who wait ---

    def own_error(self) -> Exception | None:
        """A copy of `error` to raise: all who wait share the original, whose traceback would grow with each."""
        from copy import copy  # few need it

        return copy(self.error)

    def wait(self, timeout_s: float | None = None) -> bool:
        """Block until there is news. Returns False after the timeout."""
        gate = allocate_lock()
        gate.acquire()
        if self._register(gate.release):
            try:
                gate.acquire(True, -1 if timeout_s is None else max(0.0, min(timeout_s, 1e6)))
            finally:
                self._unregister(gate.release)
        return self.has_news

    async def wait_async(self, timeout_s: float | None = None) -> bool:
        """The same on an event loop, asyncio's or trio's."""
        registered: list[Callable[[], None]] = []

        def register(wake: Callable[[], None]) -> bool:
            registered.append(wake)
            return self._register(wake)

        try:
            await wait_for_wake(register, timeout_s)
        finally:
            for wake in registered:
                self._unregister(wake)
        return self.has_news

    def _register(self, wake: Callable[[], None]) -> bool:
        with self._mutex:
            if self.has_news:
                return False
            self._wakers.append(wake)
            return True

    def _unregister(self, wake: Callable[[], None]) -> None:
        with self._mutex:
            if wake in self._wakers:
                self._wakers.remove(wake)


class Deadline(NamedTuple):
    """A point in time that several waits share."""

    at_s: float | None

    @classmethod
    def after(cls, timeout_s: float | None) -> Deadline:
        if timeout_s is not None and (isinstance(timeout_s, bool) or not isinstance(timeout_s, int | float)):
            raise TypeError(f"timeout={timeout_s!r} is no number of seconds")
        return cls(None if timeout_s is None else time.monotonic() + timeout_s)

    @property
    def left_s(self) -> float | None:
        return None if self.at_s is None else max(0.0, self.at_s - time.monotonic())
