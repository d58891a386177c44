"""StreamReaders: who in this process reads the items of which stream, as the controller is told."""

from __future__ import annotations

from collections.abc import Iterator

from deepserve._inbox import Inbox
from deepserve._inboxes import Inboxes
from deepserve._outgoing import Outgoing
from deepserve.errors import DeepServeError
from deepserve.protocol.messages import AttachRequest, GrantCredit, LeaveStream, Value


class StreamReaders:
    """Thread-safe. numbers: from 1 on, never the same one twice."""

    def __init__(self, outgoing: Outgoing, inboxes: Inboxes, numbers: Iterator[int]) -> None:
        self._outgoing = outgoing
        self._inboxes = inboxes
        self._numbers = numbers

    def begin(self, inbox: Inbox, from_offset: int) -> Inbox:
        """Ask for the items of a stream that is kept, from `from_offset` on: in an inbox of their own."""
        reader = self._inboxes.add_reader(inbox, next(self._numbers), from_offset)
        self._outgoing.send(AttachRequest(inbox.request_id, from_offset, reader.reader))
        return reader

    def took(self, reader: Inbox, value: Value) -> None:
        """An item was taken out of a stream's inbox: there is room for another one."""
        reader.untold.add(1, value.size_bytes)
        if not reader.is_over and (grant := reader.untold.take_grant()) is not None:
            self._outgoing.send(GrantCredit(reader.request_id, *grant, reader.reader))

    def leave(self, inbox: Inbox, reader: Inbox) -> None:
        """Nobody takes from `reader` any more; the stream itself goes on. May be called twice."""
        if self._inboxes.drop_reader(inbox, reader) and self._outgoing.closed is None:
            try:
                self._outgoing.send(LeaveStream(reader.request_id, reader.reader))
            except DeepServeError:  # the link ended just now, which ends all readers
                pass
