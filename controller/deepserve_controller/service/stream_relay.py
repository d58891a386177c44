"""One stream between its pod and its readers: items are held until they are taken, and each reader has its own window.

No socket here: what a reader gets is given to `send`, what becomes free for the pod is returned.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import NamedTuple

import msgspec

from deepserve.protocol.credit import Credit
from deepserve.protocol.messages import StreamItems, Value

RETAINED_BYTES = 8 << 20
"""Of a kept stream: so much of what every reader has taken can still be read again."""
HELD_BYTES = 64 << 20
"""With more than this held for readers that are behind, the stream waits for the slowest of them. Up to here it follows
the quickest: one that stands still (its loop was left, but not let go) does not hold up the others."""
ITEM_BYTES = 256
"""What it takes to hold an item, beside its own bytes."""

ReaderId = tuple[str, int]
"""Link id, and the number that the link gave its reader."""
Send = Callable[[str, StreamItems, bytes, bool], None]
"""Link, message, payload, and whether the segments in it are given away."""


class Freed(NamedTuple):
    """Room that the pod may fill."""

    items: int
    size_bytes: int


class Batch(NamedTuple):
    """Items that came together, never changed."""

    offset: int
    values: tuple[Value, ...]
    data: bytes
    size_bytes: int

    @property
    def end(self) -> int:
        return self.offset + len(self.values)

    @property
    def held_bytes(self) -> int:
        return self.size_bytes + ITEM_BYTES * len(self.values)

    def part(self, start: int, end: int) -> Batch:
        """The items from `start` up to `end`, which lie in it."""
        if start == self.offset and end == self.end:
            return self
        skipped = sum(value.size_bytes for value in self.values[: start - self.offset] if not value.segment)
        values = self.values[start - self.offset : end - self.offset]
        inline = sum(value.size_bytes for value in values if not value.segment)
        data = self.data[skipped : skipped + inline]
        return Batch(start, values, data, sum(value.size_bytes for value in values))

    def end_within(self, start: int, credit: Credit) -> int:
        """Where a reader with this credit has to stop, from `start` on."""
        end = min(self.end, start + credit.items)
        if self.size_bytes < credit.size_bytes:
            return end
        left_bytes = credit.size_bytes
        for offset in range(start, end):
            left_bytes -= self.values[offset - self.offset].size_bytes
            if left_bytes <= 0:
                return offset + 1
        return end


class Reader(msgspec.Struct):
    """sent_to, taken_to: offsets of the next item to be sent, and to be taken. credit: its room for more."""

    sent_to: int
    taken_to: int
    taken_bytes: int
    """Of the whole stream's items below `taken_to`, as far as they have come."""
    credit: Credit
    batch: int = 0
    """Number of the batch that was sent last."""


class StreamRelay:
    """is_kept: the items stay to be read again, also after the stream's end. Otherwise they go as they are sent."""

    def __init__(self, request_id: str, is_kept: bool, send: Send, drop: Callable[[Value], None]) -> None:
        self.request_id = request_id
        self.is_kept = is_kept
        self.digest = b""
        """Of all items so far, as the pod says; see TaskOutputs."""
        self.end = 0
        self.held_bytes = 0
        self._is_over = False
        self._send = send
        self._drop = drop
        self._batches: dict[int, Batch] = {}
        """By number, without gaps."""
        self._next_batch = 0
        self._total_bytes = 0
        self._readers: dict[ReaderId, Reader] = {}
        self._freed_to = 0
        self._freed_bytes = 0

    @property
    def first(self) -> int:
        """Offset of the first item that is held."""
        return next(iter(self._batches.values())).offset if self._batches else self.end

    def links(self) -> set[str]:
        """Of those who read it."""
        return {link_id for link_id, _ in self._readers}

    # --- the pod ---

    def add(self, offset: int, values: tuple[Value, ...], data: bytes) -> Freed | None:
        """The next items. Others than those that follow are of a pod that is mistaken, and count for nothing."""
        if offset != self.end or not values:
            for value in values:
                self._drop(value)
            return None
        batch = Batch(offset, values, data, sum(value.size_bytes for value in values))
        self._batches[self._next_batch] = batch
        self._next_batch += 1
        self.end = batch.end
        self.held_bytes += batch.held_bytes
        self._total_bytes += batch.size_bytes
        for reader_id, reader in self._readers.items():
            if reader.taken_to > offset:  # it skips them
                skipped = batch.part(offset, min(batch.end, reader.taken_to))
                reader.taken_bytes += skipped.size_bytes
            self._pump(reader_id, reader)
        return self._free()

    def over(self) -> None:
        """No more will come; what is held stays as long as the stream is kept."""
        self._is_over = True

    def close(self) -> None:
        """Nothing is held any more; who has not got all hears of it."""
        for (link_id, number), reader in self._readers.items():
            if reader.sent_to < self.end:
                self._send(link_id, StreamItems(self.request_id, self.end, (), number), b"", False)
        for batch in self._batches.values():
            self._drop_batch(batch)
        self._batches.clear()
        self._readers.clear()
        self.held_bytes = 0

    # --- readers ---

    def attach(self, reader_id: ReaderId, from_offset: int) -> Freed | None:
        """Send this reader the items from `from_offset` on, at once those that are held, later what comes."""
        if self._readers:
            self.is_kept = True  # from now on, for there are two who want the same
        first = self.first
        if from_offset < first:
            self._send(reader_id[0], StreamItems(self.request_id, first, (), reader_id[1]), b"", False)
            return None
        reader = Reader(from_offset, from_offset, self._bytes_below(from_offset), Credit())
        self._readers[reader_id] = reader
        self._pump(reader_id, reader)
        return self._free()

    def grant(self, reader_id: ReaderId, items: int, size_bytes: int) -> Freed | None:
        """This reader has taken items. Raises KeyError for one that is not here."""
        reader = self._readers[reader_id]
        reader.credit.grant(items, size_bytes)
        reader.taken_to += items
        reader.taken_bytes += size_bytes
        self._pump(reader_id, reader)
        return self._free()

    def leave(self, reader_id: ReaderId) -> Freed | None:
        return self._left() if self._readers.pop(reader_id, None) is not None else None

    def link_closed(self, link_id: str) -> Freed | None:
        for reader_id in [reader_id for reader_id in self._readers if reader_id[0] == link_id]:
            del self._readers[reader_id]
        return self._left()

    def _left(self) -> Freed | None:
        self._let_go()
        return self._free()

    def check_invariants(self) -> None:
        at = self.first
        for number, batch in self._batches.items():
            assert batch.offset == at, f"{self.request_id}: batch {number} begins at {batch.offset}, not at {at}"
            at = batch.end
        assert at == self.end, f"{self.request_id}: held up to {at} of {self.end}"
        assert self.held_bytes == sum(batch.held_bytes for batch in self._batches.values())
        for reader_id, reader in self._readers.items():
            has_more = reader.sent_to < self.end
            assert not (has_more and reader.credit.is_open), f"{reader_id} waits for items that are there"

    # --- inside ---

    def _pump(self, reader_id: ReaderId, reader: Reader) -> None:
        """Send what there is and what the reader has room for."""
        while reader.sent_to < self.end and reader.credit.is_open:
            batch = self._batch_with(reader)
            if batch is None:  # it has been dropped meanwhile, which only happens behind all readers
                return
            part = batch.part(reader.sent_to, batch.end_within(reader.sent_to, reader.credit))
            reader.sent_to = part.end
            is_given = not self.is_kept
            reader.credit.spend(len(part.values), part.size_bytes)
            message = StreamItems(self.request_id, part.offset, part.values, reader_id[1])
            self._send(reader_id[0], message, part.data, is_given)
            if is_given:
                self._give_away(reader.batch, part.end)

    def _batch_with(self, reader: Reader) -> Batch | None:
        for number in (reader.batch, reader.batch + 1, self._find(reader.sent_to)):
            batch = self._batches.get(number)
            if batch is not None and batch.offset <= reader.sent_to < batch.end:
                reader.batch = number
                return batch
        return None

    def _find(self, offset: int) -> int:
        """Number of the batch that holds `offset`, if one does."""
        low, high = self._next_batch - len(self._batches), self._next_batch - 1
        while low < high:
            middle = (low + high + 1) // 2
            if self._batches[middle].offset <= offset:
                low = middle
            else:
                high = middle - 1
        return low

    def _bytes_below(self, offset: int) -> int:
        held_bytes = sum(batch.size_bytes for batch in self._from(offset))
        return self._total_bytes - held_bytes

    def _from(self, offset: int) -> Iterator[Batch]:
        """Held items from `offset` on."""
        for batch in self._batches.values():
            if batch.end > offset:
                yield batch.part(max(offset, batch.offset), batch.end)

    def _free(self) -> Freed | None:
        """What was taken is room for the pod. With no reader nothing is."""
        if not self._readers:
            return None
        choose = max if self.held_bytes <= HELD_BYTES else min
        reader = choose(self._readers.values(), key=lambda reader: reader.taken_to)
        freed = Freed(max(0, reader.taken_to - self._freed_to), max(0, reader.taken_bytes - self._freed_bytes))
        self._freed_to += freed.items
        self._freed_bytes += freed.size_bytes
        self._let_go()
        return freed if any(freed) else None

    def _let_go(self) -> None:
        """Of what all readers have taken."""
        if self._is_over:
            return
        taken_to = min((reader.taken_to for reader in self._readers.values()), default=self._freed_to)
        while self._batches and self.held_bytes > RETAINED_BYTES:
            number, batch = next(iter(self._batches.items()))
            if batch.end > taken_to:
                return
            del self._batches[number]
            self.held_bytes -= batch.held_bytes
            self._drop_batch(batch)

    def _give_away(self, number: int, end: int) -> None:
        """The only reader has got this batch up to `end`: it is nobody else's."""
        batch = self._batches[number]
        self.held_bytes -= batch.held_bytes
        if end < batch.end:
            rest = self._batches[number] = batch.part(end, batch.end)  # in its place before those that follow
            self.held_bytes += rest.held_bytes
        else:
            del self._batches[number]

    def _drop_batch(self, batch: Batch) -> None:
        for value in batch.values:
            self._drop(value)
