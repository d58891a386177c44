"""What `test_link` says of a socket's link, of a WebSocket's; and two threads on one encrypted socket."""

from __future__ import annotations

import queue
import socket
import ssl
import threading
from typing import Any, cast

import pytest
import trustme
from websockets.exceptions import ConnectionClosedError

from deepserve._tls_socket import TlsSocket
from deepserve._websocket_link import MESSAGE_BYTES, WebSocketLink
from deepserve.errors import ControllerLost, DeepServeError, ProtocolError
from deepserve.protocol.framing import FrameReader, encode_frame
from deepserve.protocol.messages import CancelRequest, Message, Refused


class FarEnd:
    """websockets' connection, as far as a link uses it. What comes is put into `inbound`; an exception is raised."""

    def __init__(self) -> None:
        self.link = WebSocketLink(cast(Any, self))
        self.sent: list[bytes] = []
        self.inbound: queue.Queue[bytes | str | BaseException] = queue.Queue()
        self.socket = self
        self.on_send = lambda: None
        self.is_shut = self.is_closed = False

    def send(self, data: bytes) -> None:
        self.sent.append(bytes(data))
        on_send, self.on_send = self.on_send, lambda: None
        on_send()

    def recv(self, timeout_s: float | None) -> bytes | str:
        found = self.inbound.get(timeout=timeout_s)
        if isinstance(found, BaseException):
            raise found
        return found

    def shutdown(self, how: int) -> None:
        self.is_shut = True
        self.inbound.put(ConnectionClosedError(None, None))

    def close(self) -> None:
        self.is_closed = True

    @property
    def messages(self) -> list[tuple[Message, int]]:
        reader = FrameReader()
        reader.feed(b"".join(self.sent))
        return [(message, len(payload)) for message, payload in reader.frames()]


def test_a_large_frame_is_cut() -> None:
    far = FarEnd()
    far.link.send(CancelRequest("rq-1"), memoryview(bytes(3 * MESSAGE_BYTES + 5)))
    assert max(len(data) for data in far.sent) <= MESSAGE_BYTES and len(far.sent) == 5
    assert far.messages == [(CancelRequest("rq-1"), 3 * MESSAGE_BYTES + 5)]


def test_a_frame_sent_by_a_finaliser_inside_a_write_follows_it() -> None:
    far = FarEnd()
    far.on_send = lambda: far.link.send(CancelRequest("rq-2"))
    far.link.send(CancelRequest("rq-1"), bytes(2 * MESSAGE_BYTES))
    assert far.messages == [(CancelRequest("rq-1"), 2 * MESSAGE_BYTES), (CancelRequest("rq-2"), 0)]


def test_an_interrupted_write_closes_the_link_before_the_next_call() -> None:
    far, closed = FarEnd(), list[DeepServeError]()
    far.link.start_reader(lambda message, payload: None, closed.append)

    def interrupt() -> None:
        raise KeyboardInterrupt

    far.on_send = interrupt
    with pytest.raises(KeyboardInterrupt):
        far.link.send(CancelRequest("rq-1"))
    assert "interrupted" in str(closed[0]) and far.is_shut
    with pytest.raises(ControllerLost, match="interrupted"):
        far.link.send(CancelRequest("rq-2"))


@pytest.mark.parametrize(
    ("what", "error", "text"),
    [
        (ConnectionClosedError(None, None), ControllerLost, "ended"),
        (ConnectionResetError("reset"), ControllerLost, "reset"),
        (b"HTTP/1.1 200 OK\r\n", ProtocolError, "no frame"),
        ("text", ProtocolError, "text message"),
        (encode_frame(Refused("garbage", "not so")), ProtocolError, "not so"),
        (encode_frame(CancelRequest("fault")), ControllerLost, "a fault"),
    ],
    ids=["closed", "reset", "garbage", "text", "refused", "fault of ours"],
)
def test_whatever_ends_the_link_those_who_wait_hear_of_it(what: Any, error: type[Exception], text: str) -> None:
    far, closed, is_closed = FarEnd(), list[DeepServeError](), threading.Event()

    def on_frame(message: Message, payload: bytes) -> None:
        raise RuntimeError("a fault")

    def on_closed(error: DeepServeError) -> None:
        closed.append(error)
        is_closed.set()

    far.link.start_reader(on_frame, on_closed)
    far.inbound.put(what)
    assert is_closed.wait(30)
    assert type(closed[0]) is error and text in str(closed[0])


def test_after_close_nothing_is_sent() -> None:
    far = FarEnd()
    far.link.close()
    assert far.is_closed
    with pytest.raises(ControllerLost, match="closed its link"):
        far.link.send(CancelRequest("rq-1"))


def test_an_encrypted_socket_is_read_and_written_by_two_threads() -> None:
    """Both sides send more than the network holds before the other reads: neither waits for the other's lock."""
    authority = trustme.CA()
    server, client = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER), ssl.create_default_context()
    authority.issue_cert("here.example").configure_cert(server)
    authority.configure_trust(client)
    ours, theirs = socket.socketpair()
    accepted: list[ssl.SSLSocket] = []
    greeting = threading.Thread(target=lambda: accepted.append(server.wrap_socket(theirs, server_side=True)))
    greeting.start()
    wrapped = client.wrap_socket(ours, server_hostname="here.example")
    greeting.join()
    near, far = TlsSocket(wrapped), TlsSocket(accepted[0])
    content, received = bytes(range(256)) * 20_000, {}

    def read(side: str, connection: TlsSocket) -> None:
        data = bytearray()
        while len(data) < len(content):
            data += connection.recv(65536)
        received[side] = bytes(data)

    threads = [threading.Thread(target=connection.sendall, args=(content,)) for connection in (near, far)]
    threads += [threading.Thread(target=read, args=item) for item in {"near": near, "far": far}.items()]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(30)
    assert received == {"near": content, "far": content}
    near.settimeout(0.05)
    with pytest.raises(TimeoutError):
        near.recv(1)
    wrapped.close()
    accepted[0].close()
