"""Messages with several items of a stream, taken apart."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from deepserve.protocol.journals import unpacked
from deepserve.protocol.messages import StreamItems, TaskOutputs, Value


def items_in(message: StreamItems | TaskOutputs, payload: bytes) -> list[tuple[int, Value, bytes]]:
    """(offset, value, bytes) of each."""
    if isinstance(message, TaskOutputs):
        message, payload = unpacked(message, payload)
    items, at = [], 0
    for number, value in enumerate(message.values):
        size_bytes = 0 if value.segment else value.size_bytes
        items.append((message.offset + number, value, payload[at : at + size_bytes]))
        at += size_bytes
    assert at == len(payload)
    return items


def all_items(frames: Iterable[tuple[Any, bytes]]) -> list[tuple[int, Value, bytes]]:
    """Of all messages among `frames` that hold items, in their order."""
    batches = [frame for frame in frames if isinstance(frame[0], StreamItems | TaskOutputs)]
    return [item for message, payload in batches for item in items_in(message, payload)]
