"""Credit: how much of a stream may be on its way to a reader who has not taken it yet. `Taken` is the reader's end."""

from __future__ import annotations

import msgspec

STREAM_ITEMS = 64
STREAM_BYTES = 4 << 20
"""A reader has room for so many items and bytes before it has taken any."""


class Credit(msgspec.Struct):
    """One end's account. An item may be sent while there is some of both; the last one may overdraw the bytes, so that
    an item larger than all of them passes too, and then nothing before it is taken."""

    items: int = STREAM_ITEMS
    size_bytes: int = STREAM_BYTES

    @property
    def is_open(self) -> bool:
        return self.items > 0 and self.size_bytes > 0

    def grant(self, items: int, size_bytes: int) -> None:
        self.items += items
        self.size_bytes += size_bytes

    def spend(self, items: int, size_bytes: int) -> None:
        self.items -= items
        self.size_bytes -= size_bytes


class Taken(msgspec.Struct):
    """What a reader has taken and not told of yet. It tells when half of the items it has room for are taken, or a
    quarter of the bytes: a message for each small item would cost as much as the item's own, and the sender, which
    has the rest of the room meanwhile, does not stand still."""

    items: int = 0
    size_bytes: int = 0

    def add(self, items: int, size_bytes: int) -> None:
        self.items += items
        self.size_bytes += size_bytes

    def take_grant(self) -> tuple[int, int] | None:
        """Items and bytes to grant, where it is time to tell."""
        if self.items < STREAM_ITEMS // 2 and self.size_bytes < STREAM_BYTES // 4:
            return None
        granted = self.items, self.size_bytes
        self.items = self.size_bytes = 0
        return granted
