"""Inboxes: who waits here for which request, and what arrives sorted to them."""

from __future__ import annotations

from msgspec.structs import replace

from deepserve._arrived_values import ArrivedValues
from deepserve._inbox import Inbox, Item
from deepserve.protocol.map_messages import ItemsFinished
from deepserve.protocol.messages import ItemFinished, Message, RequestFinished, StreamItems


class Inboxes:
    """Thread-safe. What comes for nobody is discarded."""

    def __init__(self, values: ArrivedValues) -> None:
        self._values = values
        self._inboxes: dict[str, Inbox] = {}
        self._readers: dict[int, Inbox] = {}
        """Of streams that are kept, by the numbers under which the controller knows them."""
        self._open: set[str] = set()

    @property
    def num_open(self) -> int:
        """Requests that were opened here and have not finished."""
        return len(self._open)

    @property
    def request_ids(self) -> set[str]:
        """Those for which somebody waits here, or may."""
        return set(self._inboxes)

    def open(self, request_id: str) -> Inbox:
        """For a request that is about to be opened here."""
        inbox = self._inboxes[request_id] = Inbox(request_id)
        self._open.add(request_id)
        return inbox

    def find(self, request_id: str) -> Inbox | None:
        return self._inboxes.get(request_id)

    def find_or_add(self, request_id: str) -> Inbox:
        """For a request that may have been opened elsewhere."""
        inbox = self._inboxes.get(request_id)
        if inbox is None:
            inbox = self._inboxes[request_id] = Inbox(request_id)
        return inbox

    def release(self, inbox: Inbox) -> None:
        """Nobody waits here for this request any more; somebody else may."""
        if self._inboxes.get(inbox.request_id) is inbox:
            del self._inboxes[inbox.request_id]
        self._discard_items(inbox)

    def drop(self, inbox: Inbox) -> None:
        """Nobody waits for this request any more: values that were not taken leave shared memory."""
        self.release(inbox)
        self._open.discard(inbox.request_id)  # all of a map's outputs may be here before its end is
        self.discard_unread(inbox)

    def discard_unread(self, inbox: Inbox) -> None:
        """Of what ended the request, the value that nobody will read."""
        if inbox.finished is not None and not inbox.is_read:
            self._values.discard(inbox.finished.value)

    def add_reader(self, inbox: Inbox, number: int, from_offset: int) -> Inbox:
        """Of a stream that is kept: one who reads it, in an inbox of their own."""
        reader = Inbox(inbox.request_id)
        reader.reader = number
        reader.next_offset = from_offset
        inbox.readers.append(reader)
        self._readers[number] = reader
        return reader

    def drop_reader(self, inbox: Inbox, reader: Inbox) -> bool:
        """False where that was done before."""
        if self._readers.pop(reader.reader, None) is None:
            return False
        inbox.readers.remove(reader)
        self._discard_items(reader)
        return True

    def deliver(self, message: Message, payload: bytes) -> bool:
        """Take what arrived on the link; False where the message is not about a request."""
        match message:
            case RequestFinished():
                self._finish(message, payload)
            case ItemFinished() | ItemsFinished():
                inbox = self._inboxes.get(message.request_id)
                item = Item(message, payload)
                if inbox is None:
                    self._values.discard(item.value)
                else:
                    inbox.put_item(item)
            case StreamItems():
                reads = self._readers.get(message.reader) if message.reader else self._inboxes.get(message.request_id)
                if reads is not None:
                    reads.put_stream_items(message, payload)
                else:
                    for value in message.values:
                        self._values.discard(value)
            case _:
                return False
        return True

    def close(self, error: Exception) -> None:
        """Nothing more will come: whoever waits gets `error`."""
        for inbox in [*self._inboxes.values(), *self._readers.values()]:
            inbox.close(error)

    def end_in_fork(self, error: Exception) -> None:
        """As `close`, where this thread is the only one, and another one may have held a lock when it was forked."""
        for inbox in [*self._inboxes.values(), *self._readers.values()]:
            if inbox.finished is None:
                inbox.error = error

    def _finish(self, message: RequestFinished, payload: bytes) -> None:
        self._open.discard(message.request_id)
        inbox = self._inboxes.get(message.request_id)
        if inbox is None:
            self._values.discard(message.value)
            return
        if inbox.finished is None:
            inbox.put_finished(message, payload)
        else:  # told once more, for the sake of a reader
            self._values.discard(message.value)
        for reader in list(inbox.readers):
            reader.put_finished(replace(message, count=0) if inbox.is_group else message, payload)

    def _discard_items(self, inbox: Inbox) -> None:
        while inbox.items:
            self._values.discard(inbox.items.popleft().value)
