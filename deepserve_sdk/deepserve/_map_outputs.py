"""MapOutputs: what has come of a map's outputs and is not decoded yet."""

from __future__ import annotations

from collections import deque
from itertools import accumulate
from typing import Any

from deepserve._client import Client
from deepserve._inbox import Inbox
from deepserve._values import decode_value
from deepserve.protocol.map_messages import ItemsFinished
from deepserve.protocol.messages import ItemFinished, Value


class MapOutputs:
    """By index. `arrived`: indices in the order in which they came."""

    def __init__(self, client: Client, label: str) -> None:
        self._client = client
        self._label = label
        self._many: dict[int, tuple[str, bytes]] = {}
        """Python version and pickle of those that came many in a frame."""
        self._single: dict[int, tuple[ItemFinished, bytes]] = {}
        self.arrived: deque[int] = deque()
        self.come_many = False
        """Some came with others in a frame."""

    def __contains__(self, index: int) -> bool:
        return index in self._many or index in self._single

    def collect(self, inbox: Inbox) -> list[ItemFinished]:
        """Take over what has arrived; returns those that came alone, which may have failed."""
        alone = []
        while inbox.items:
            message, payload = inbox.items.popleft()
            if isinstance(message, ItemsFinished):
                self._collect_many(message, payload)
                continue
            assert isinstance(message, ItemFinished)
            self._single[message.index] = (message, payload)
            self.arrived.append(message.index)
            alone.append(message)
        return alone

    def _collect_many(self, message: ItemsFinished, payload: bytes) -> None:
        python, index = message.python, message.first_index
        self.come_many = self.come_many or len(message.sizes) > 1
        ends = list(accumulate(message.sizes, initial=0))
        self.arrived.extend(range(index, index + len(message.sizes)))
        for start, end in zip(ends, ends[1:], strict=False):
            self._many[index] = python, payload[start:end]
            index += 1

    def take(self, index: int) -> Any:
        """The output, which is gone then. Raises the input's error."""
        many = self._many.pop(index, None)
        if many is not None:
            python, data = many
            return decode_value(Value("pickle", len(data), python), data)
        message, payload = self._single.pop(index)
        return self._client.values.outcome(message, payload, self._label)

    def discard_all(self) -> None:
        """Nobody will read them: they leave shared memory."""
        for message, _ in self._single.values():
            self._client.values.discard(message.value)
        self._single.clear()
        self._many.clear()


def with_index(error: Exception, index: int) -> Exception:
    """Name the input that failed."""
    try:
        error.input_index = index  # type: ignore[attr-defined]
        error.add_note(f"input {index} of the map")
    except AttributeError:  # a class with __slots__
        pass
    return error
