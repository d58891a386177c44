"""InputBatch: encoded inputs of a map on their way to the controller, many in a frame."""

from __future__ import annotations

from deepserve._client import Client
from deepserve._inbox import Inbox
from deepserve.protocol.framing import Buffer
from deepserve.protocol.map_messages import MapInputs
from deepserve.protocol.messages import MapEnd, MapInput, Value

MAX_INPUTS = 128
MAX_BYTES = 256 << 10


class InputBatch:
    """Inputs are added in the order of their indices. What is added is sent when the batch is full or at `flush`: its
    owner never waits, nor gives an output away, with inputs left in it."""

    def __init__(self, client: Client, inbox: Inbox) -> None:
        self._client = client
        self._inbox = inbox
        self._parts: list[Buffer] = []
        self._sizes: list[int] = []
        self._num_bytes = 0
        self._python = ""
        self.num_added = 0
        self.num_bytes_added = 0

    def add(self, value: Value, payload: Buffer, depends_on: tuple[str, ...] = ()) -> None:
        """What is in a segment, holds refs, or waits for others' results goes alone."""
        index, self.num_added = self.num_added, self.num_added + 1
        self.num_bytes_added += value.size_bytes
        if value.segment or value.refs or depends_on or value.format != "pickle":
            self._send(index)
            self._client.send(MapInput(self._inbox.request_id, index, value, depends_on), payload)
            return
        if value.python != self._python:
            self._send(index)
            self._python = value.python
        self._parts.append(payload)
        self._sizes.append(len(payload))
        self._num_bytes += len(payload)
        if len(self._sizes) >= MAX_INPUTS or self._num_bytes >= MAX_BYTES:
            self._send(self.num_added)

    def flush(self) -> None:
        self._send(self.num_added)

    def end(self) -> None:
        """There are no more inputs than those that were added."""
        self.flush()
        self._client.send(MapEnd(self._inbox.request_id, self.num_added))

    def _send(self, next_index: int) -> None:
        """All that lies here: the inputs before `next_index`."""
        if not self._sizes:
            return
        sizes, payload = self._sizes, b"".join(self._parts)
        self._parts, self._sizes, self._num_bytes = [], [], 0
        message = MapInputs(self._inbox.request_id, next_index - len(sizes), sizes, self._python)
        self._client.send(message, payload)
