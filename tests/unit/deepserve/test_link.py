"""The connection of a process: writes inside writes, and faults on the reader thread."""

from __future__ import annotations

import socket
import threading

import pytest

from deepserve._link import Link
from deepserve.errors import ControllerLost, DeepServeError
from deepserve.protocol.framing import FrameReader, encode_prefix
from deepserve.protocol.messages import CancelRequest, Message


class CollectingSocket:
    """Runs a finaliser in the middle of the first frame, as the garbage collector may."""

    def __init__(self) -> None:
        self.link = Link(self)  # type: ignore[arg-type]
        self.written = b""
        self.is_first = True

    def sendall(self, data: bytes) -> None:
        self.written += bytes(data)
        if self.is_first:
            self.is_first = False
            self.link.send(CancelRequest("rq-2"))


def test_a_frame_sent_by_a_finaliser_inside_a_write_follows_it() -> None:
    connection = CollectingSocket()
    connection.link.send(CancelRequest("rq-1"), b"x" * 10_000)
    reader = FrameReader()
    reader.feed(connection.written)
    assert [(frame.message, len(frame.payload)) for frame in reader.frames()] == [
        (CancelRequest("rq-1"), 10_000),
        (CancelRequest("rq-2"), 0),
    ]


def test_a_fault_on_the_reader_thread_wakes_those_who_wait() -> None:
    ours, theirs = socket.socketpair()
    closed: list[DeepServeError] = []
    is_closed = threading.Event()

    def on_frame(message: Message, payload: bytes) -> None:
        raise RuntimeError("a fault")

    def on_closed(error: DeepServeError) -> None:
        closed.append(error)
        is_closed.set()

    with ours, theirs:
        Link(ours).start_reader(on_frame, on_closed)
        theirs.sendall(encode_prefix(CancelRequest("rq-1"), 0))
        assert is_closed.wait(30)
    assert isinstance(closed[0], ControllerLost) and "a fault" in str(closed[0])


class InterruptedSocket(socket.socket):
    def sendall(self, data: bytes, flags: int = 0) -> None:  # type: ignore[override]
        raise KeyboardInterrupt


def test_an_interrupted_write_closes_the_link_before_the_next_call() -> None:
    ours, theirs = socket.socketpair()
    with theirs, InterruptedSocket(fileno=ours.detach()) as interrupted:
        link = Link(interrupted)
        closed: list[DeepServeError] = []
        link.start_reader(lambda message, payload: None, closed.append)
        with pytest.raises(KeyboardInterrupt):
            link.send(CancelRequest("rq-1"))
        assert "interrupted" in str(closed[0])


def test_a_finaliser_that_runs_as_a_write_begins_does_not_wait_for_it() -> None:
    """From Python 3.12 on the collector may run between any two bytecodes, also behind the lock's."""
    connection = CollectingSocket()
    connection.is_first = False
    link = connection.link
    with link._lock:
        link.send(CancelRequest("rq-2"))
    assert not connection.written
    link.send(CancelRequest("rq-1"))
    reader = FrameReader()
    reader.feed(connection.written)
    assert [frame.message for frame in reader.frames()] == [CancelRequest("rq-1"), CancelRequest("rq-2")]


@pytest.mark.parametrize("is_left", [True, False])
def test_a_link_that_has_ended_holds_no_descriptor(is_left: bool) -> None:
    """A process may connect again and again: a test suite, a notebook whose controller is restarted."""
    ours, theirs = socket.socketpair()
    is_closed = threading.Event()
    with theirs:
        link = Link(ours)
        link.start_reader(lambda message, payload: None, lambda error: is_closed.set())
        if is_left:
            link.close()
        else:
            theirs.shutdown(socket.SHUT_RDWR)
        assert is_closed.wait(30)
        assert ours.fileno() == -1
        link.close()
        link.abandon()
        with pytest.raises(ControllerLost):
            link.send(CancelRequest("rq-1"))
