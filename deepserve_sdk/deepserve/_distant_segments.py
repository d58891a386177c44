"""Large values of a client on another host: they lie in the controller's shared memory and cross the link in pieces."""

from __future__ import annotations

import os
import threading
from collections.abc import Callable, Sequence
from typing import TypeVar

from deepserve._segments import SegmentGone
from deepserve.errors import ControllerLost, DeepServeError, ValueTooLarge
from deepserve.protocol.framing import Buffer
from deepserve.protocol.messages import DropValue, FetchValue, Message, PutValue, ValueContent, ValueStored

PIECE_BYTES = 1 << 20
Key = TypeVar("Key", int, str)
NUM_AHEAD = 8
"""So many pieces are asked for before the first is here."""


class Transfer:
    """One value on its way; what came is handed over by the reader thread."""

    def __init__(self, buffer: bytearray) -> None:
        self.buffer = buffer
        self.error: DeepServeError | None = None
        self._news = threading.Condition()
        self._num_bytes = 0
        self._is_over = False

    def put(self, offset: int, piece: bytes) -> None:
        with self._news:
            self.buffer[offset : offset + len(piece)] = piece
            self._num_bytes += len(piece)
            self._news.notify_all()

    def end(self, error: DeepServeError | None = None) -> None:
        with self._news:
            self._is_over, self.error = True, error
            self._news.notify_all()

    def wait_for(self, num_bytes: int) -> None:
        """Until so many bytes are here, or it is over. Raises what ended it."""
        with self._news:
            self._news.wait_for(lambda: self._is_over or self._num_bytes >= num_bytes)
            if self.error is not None:
                raise self.error


class LinkSegments:
    """The segments of a controller at the other end of a link. Thread-safe."""

    def __init__(self, send: Callable[[Message, Buffer], None]) -> None:
        self._send = send
        self._lock = threading.Lock()
        self._num_fetches = 0
        self._fetches: dict[int, Transfer] = {}
        self._uploads: dict[str, Transfer] = {}
        self._closed: DeepServeError | None = None

    def write(self, parts: Sequence[Buffer], size_bytes: int, kind: str) -> str:
        """Stores `parts` and returns the segment's name. Raises ValueTooLarge, ControllerLost."""
        name = f"{'u' if kind == 'v' else kind}-{os.urandom(8).hex()}"
        upload = self._begin(self._uploads, name, Transfer(bytearray()))
        try:
            at = 0
            for part in parts:
                view = memoryview(part).cast("B")
                for start in range(0, len(view), PIECE_BYTES):
                    piece = view[start : start + PIECE_BYTES]
                    self._send(PutValue(name, size_bytes, at), piece)
                    at += len(piece)
                    if upload.error is not None:
                        raise upload.error
            upload.wait_for(size_bytes)
        finally:
            del self._uploads[name]
        return name

    def read(self, name: str, size_bytes: int, *, unlink: bool) -> memoryview:
        """Raises SegmentGone, ControllerLost."""
        with self._lock:
            self._num_fetches += 1
            number = self._num_fetches
        fetch = self._begin(self._fetches, number, Transfer(bytearray(size_bytes)))
        try:
            for at in range(0, size_bytes, PIECE_BYTES):
                fetch.wait_for(at - NUM_AHEAD * PIECE_BYTES)
                is_last = at + PIECE_BYTES >= size_bytes
                piece_bytes = min(PIECE_BYTES, size_bytes - at)
                self._send(FetchValue(number, name, at, piece_bytes, unlink and is_last), b"")
            fetch.wait_for(size_bytes)
        finally:
            del self._fetches[number]
        return memoryview(fetch.buffer)

    def remove(self, name: str) -> None:
        """Raises ControllerLost."""
        self._send(DropValue(name), b"")

    # --- the reader thread ---

    def deliver(self, message: Message, payload: bytes) -> bool:
        """Take what arrived; False where it is about no value."""
        match message:
            case ValueContent():
                fetch = self._fetches.get(message.fetch_id)
                if fetch is None:  # whoever waited was interrupted
                    pass
                elif message.error:
                    fetch.end(SegmentGone(message.error))
                else:
                    fetch.put(message.offset, payload)
            case ValueStored():
                upload = self._uploads.get(message.segment)
                if upload is not None:
                    upload.end(ValueTooLarge(message.error) if message.error else None)
            case _:
                return False
        return True

    def on_closed(self, error: DeepServeError) -> None:
        with self._lock:
            self._closed = error
            waiting = [*self._fetches.values(), *self._uploads.values()]
        for transfer in waiting:
            transfer.end(error)

    def _begin(self, transfers: dict[Key, Transfer], key: Key, transfer: Transfer) -> Transfer:
        with self._lock:
            if self._closed is not None:
                raise ControllerLost(str(self._closed))
            transfers[key] = transfer
        return transfer
