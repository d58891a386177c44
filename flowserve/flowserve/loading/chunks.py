"""Chunks: a file as pieces of one size, and how far its beginning is there when they come in any order. Pure."""

from __future__ import annotations

from typing import NamedTuple


class Chunk(NamedTuple):
    """`size` bytes at `offset`; `number` counts from 0."""

    number: int
    offset: int
    size: int


def chunks_of(size_bytes: int, chunk_bytes: int) -> list[Chunk]:
    """In the order of the file, the last one shorter."""
    return [
        Chunk(number, offset, min(chunk_bytes, size_bytes - offset))
        for number, offset in enumerate(range(0, size_bytes, chunk_bytes))
    ]


class Prefix:
    """`end`: all bytes before it are there."""

    def __init__(self) -> None:
        self.end = 0
        self._next = 0
        self._early: dict[int, Chunk] = {}

    def note(self, chunk: Chunk) -> None:
        """It is there. Each comes once."""
        self._early[chunk.number] = chunk
        while (first := self._early.pop(self._next, None)) is not None:
            self._next += 1
            self.end = first.offset + first.size
