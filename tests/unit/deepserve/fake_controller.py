"""A controller in a thread: it speaks frames on a socket pair and does what a test tells it to."""

from __future__ import annotations

import socket
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

from deepserve import _current_client
from deepserve._client import Client
from deepserve._dependencies import put_in
from deepserve._link import Link
from deepserve._values import decode_value, encode_exception, encode_value
from deepserve.protocol import PROTOCOL_VERSION
from deepserve.protocol.framing import FrameReader, encode_frame
from deepserve.protocol.map_messages import ItemsFinished, MapInputs
from deepserve.protocol.messages import (
    AttachRequest,
    CancelRequest,
    DefineFunction,
    GrantCredit,
    ItemFinished,
    MapEnd,
    MapInput,
    Message,
    OpenRequest,
    Outcome,
    RequestFinished,
    StreamItems,
    Timings,
    Value,
    Welcome,
)

Reply = tuple[Message, bytes]


class FakeController:
    """Keeps every message; `take` answers it. `run` stands for the pod: (args, kwargs) to a value, or it raises."""

    def __init__(self, run: Callable[..., Any] | None = None, segments: str = "") -> None:
        self.run = run or (lambda *args, **kwargs: None)
        self.seen: list[Message] = []
        self.ours, self.theirs = socket.socketpair()
        self.welcome = Welcome(PROTOCOL_VERSION, "fake", "embedded", folder="/nowhere", segments=segments)
        self.results: dict[str, tuple[Value, bytes]] = {}
        self._thread = threading.Thread(target=self._serve, daemon=True)
        self.changed = threading.Condition()

    def start(self) -> None:
        self._thread.start()

    def take(self, message: Message, payload: bytes) -> Iterator[Reply]:
        if isinstance(message, OpenRequest) and message.kind == "call":
            yield self._finish(message, payload)
        elif isinstance(message, MapInput):
            outcome, value, data = self._outcome(message, payload)
            yield ItemFinished(message.request_id, message.index, outcome, Timings(pod_id="pod-1"), value), data
        elif isinstance(message, MapInputs):
            yield from self._finish_inputs(message, payload)
        elif isinstance(message, MapEnd):
            yield RequestFinished(message.request_id, Outcome("ok"), Timings(), count=message.count), b""

    def _finish_inputs(self, message: MapInputs, payload: bytes) -> Iterator[Reply]:
        """Those that end well in a frame each, the others alone."""
        at = 0
        for index, size in enumerate(message.sizes, message.first_index):
            single = MapInput(message.request_id, index, Value("pickle", size, message.python))
            outcome, result, data = self._outcome(single, payload[at : at + size])
            at += size
            timings = Timings(pod_id="pod-1")
            if outcome.is_ok and not result.segment:
                yield ItemsFinished(message.request_id, index, [len(data)], timings, result.python), data
            else:
                yield ItemFinished(message.request_id, index, outcome, timings, result), data

    def _finish(self, message: OpenRequest, payload: bytes) -> Reply:
        outcome, result, data = self._outcome(message, payload)
        self.results[message.request_id] = result, data
        return RequestFinished(message.request_id, outcome, Timings(pod_id="pod-1", attempts=1), result), data

    def _outcome(self, message: OpenRequest | MapInput, payload: bytes) -> tuple[Outcome, Value, bytes]:
        results = [decode_value(*self.results[request_id]) for request_id in message.depends_on]
        args, kwargs = put_in(decode_value(message.value, payload, segments=self.welcome.segments), results)
        try:
            result, data = encode_value(self.run(*args, **kwargs), segments=self.welcome.segments)
        except Exception as error:
            result, data = encode_exception(error, pod_id="pod-1")
            return Outcome("error", str(error)), result, data
        return Outcome("ok"), result, data

    def send(self, message: Message, payload: bytes = b"") -> None:
        self.theirs.sendall(encode_frame(message, payload))

    def seen_of(self, kind: type[Message]) -> list[Any]:
        return [message for message in self.seen if isinstance(message, kind)]

    def wait_for(self, kind: type[Message], count: int = 1) -> list[Any]:
        """Messages of `kind`, once there are `count`."""
        with self.changed:
            assert self.changed.wait_for(lambda: len(self.seen_of(kind)) >= count, timeout=30), self.seen
            return self.seen_of(kind)

    def close(self) -> None:
        self.theirs.shutdown(socket.SHUT_RDWR)

    def _serve(self) -> None:
        reader = FrameReader()
        try:
            self.send(self.welcome)
            while data := self.theirs.recv(65536):
                reader.feed(data)
                for message, payload in reader.frames():
                    with self.changed:
                        self.seen.append(message)
                        self.changed.notify_all()
                    for reply in self.take(message, payload):
                        self.send(*reply)
        except OSError:
            pass


class StreamingController(FakeController):
    """Answers every stream with `items`, as far as the credit of its reader goes; one reader at a time."""

    def __init__(self, items: list[Any]) -> None:
        super().__init__()
        self.items = items
        self.credit = 0
        self.sent = 0
        self.reader = 0

    def take(self, message: Message, payload: bytes) -> Iterator[Reply]:
        if isinstance(message, OpenRequest) and not message.keep:
            yield from self._stream(message.request_id, 0, 0)
        elif isinstance(message, AttachRequest) and message.reader > 0:
            yield from self._stream(message.request_id, message.from_offset, message.reader)
        elif isinstance(message, GrantCredit) and message.reader == self.reader:
            self.credit += message.items
            yield from self._send_on(message.request_id)
        elif isinstance(message, CancelRequest):
            yield RequestFinished(message.request_id, Outcome("cancelled"), Timings(), count=self.sent), b""

    def _stream(self, request_id: str, from_offset: int, reader: int) -> Iterator[Reply]:
        self.credit, self.sent, self.reader = 64, from_offset, reader
        yield from self._send_on(request_id)

    def _send_on(self, request_id: str) -> Iterator[Reply]:
        while self.credit > 0 and self.sent < len(self.items):
            value, data = encode_value(self.items[self.sent])
            yield StreamItems(request_id, self.sent, (value,), self.reader), data
            self.credit -= 1
            self.sent += 1
        if self.sent == len(self.items):
            yield RequestFinished(request_id, Outcome("ok"), Timings(), count=len(self.items)), b""


class SilentController(FakeController):
    """Finishes nothing, but tells of cancellations."""

    def take(self, message: Message, payload: bytes) -> Iterator[Reply]:
        if isinstance(message, CancelRequest):
            yield RequestFinished(message.request_id, Outcome("cancelled", "by the caller"), Timings()), b""


@contextmanager
def installed(controller: FakeController, *, is_pod: bool = False) -> Iterator[Client]:
    """Calls of this process go to `controller` meanwhile."""
    link = Link(controller.ours)
    client = Client(link.send, welcome=None, client_id="test", is_pod=is_pod)
    link.start_reader(client.deliver, client.on_closed)
    controller.start()
    before = _current_client.installed_client()
    _current_client.install(client)
    try:
        yield client
    finally:
        _current_client.install(before)
        link.close()
        controller.close()


__all__ = ["DefineFunction", "FakeController", "SilentController", "StreamingController", "installed"]
