"""One connection over a real socket pair, without a controller."""

from __future__ import annotations

import socket
from collections.abc import Iterator

import pytest

from deepserve.protocol.framing import FrameReader, encode_frame
from deepserve.protocol.messages import Hello, LogOutput, MapEnd, Message, Refused, Welcome
from deepserve_controller.errors import Refusal
from deepserve_controller.service import links
from deepserve_controller.service.links import Link
from deepserve_controller.service.logs import LogReader
from deepserve_controller.service.reactor import Reactor, running_reactor, use_reactor


class Recorder:
    def __init__(self) -> None:
        self.messages: list[Message] = []
        self.data = b""
        self.is_over = False

    def frame_received(self, message: Message, payload: bytes) -> None:
        if isinstance(message, MapEnd) and message.count == 13:
            raise RuntimeError("a defect in a handler")
        self.messages.append(message)

    def link_closed(self) -> None:
        self.is_over = True


class RawRecorder:
    def __init__(self) -> None:
        self.data = b""
        self.is_over = False

    def bytes_received(self, data: memoryview) -> None:
        self.data += bytes(data)

    def link_closed(self) -> None:
        self.is_over = True


@pytest.fixture(autouse=True)
def reactor() -> Iterator[Reactor]:
    reactor = Reactor()
    use_reactor(reactor)
    yield reactor
    use_reactor(None)
    reactor.close()


def connect(link: Link) -> socket.socket:
    ours, theirs = socket.socketpair()
    ours.settimeout(0.0)
    link.open(theirs)
    return ours


def receive(connection: socket.socket, num_bytes: int = 1 << 20) -> bytes:
    """What comes next, while the other side does its part."""
    received: list[bytes] = []

    def has_come() -> bool:
        try:
            received.append(connection.recv(num_bytes))
        except BlockingIOError:
            return False
        return True

    reactor = running_reactor()
    reactor.watch(connection.fileno(), lambda events: None)
    try:
        assert reactor.run_until(has_come, 30)
    finally:
        reactor.unwatch(connection.fileno())
    return received[0]


def read_all(connection: socket.socket) -> list[Message]:
    reader = FrameReader()
    while data := receive(connection):
        reader.feed(data)
    return [frame.message for frame in reader.frames()]


def never(link: Link, hello: Hello) -> Recorder:
    raise AssertionError("not greeted")


def test_who_says_nothing_is_sent_away() -> None:
    ours = connect(Link(never, hello_timeout_s=0.05))
    assert read_all(ours) == [Refused("garbage", "no Hello came in time")]


def test_frames_that_came_with_the_hello_are_handled_after_it() -> None:
    recorder = Recorder()
    ours = connect(Link(lambda link, hello: recorder))
    ours.send(encode_frame(Hello(1, "client", "x")) + encode_frame(MapEnd("rq", 1)) + encode_frame(MapEnd("rq", 2)))
    running_reactor().run_until(lambda: len(recorder.messages) == 2, 30)
    assert recorder.messages == [MapEnd("rq", 1), MapEnd("rq", 2)]
    ours.close()
    running_reactor().run_until(lambda: recorder.is_over, 30)
    assert recorder.is_over


def test_a_log_connection_turns_to_bytes_right_after_its_hello() -> None:
    recorder = RawRecorder()
    ours = connect(Link(lambda link, hello: recorder))
    ours.send(encode_frame(Hello(1, "log", "x")) + b"DS no frame")
    running_reactor().run_until(lambda: recorder.data == b"DS no frame", 30)
    ours.send(b" at all")
    running_reactor().run_until(lambda: recorder.data.endswith(b"all"), 30)
    assert recorder.data == b"DS no frame at all"
    ours.close()


def test_nothing_is_handled_after_a_refusal() -> None:
    def greet(link: Link, hello: Hello) -> Recorder:
        raise Refusal("key", "no")

    ours = connect(Link(greet))
    ours.send(encode_frame(Hello(1, "client", "x")) * 3)
    assert read_all(ours) == [Refused("key", "no")]


def test_a_defect_ends_only_its_own_link() -> None:
    bad, good = Recorder(), Recorder()
    one, two = connect(Link(handler=bad)), connect(Link(handler=good))
    one.send(encode_frame(MapEnd("rq", 13)))
    two.send(encode_frame(MapEnd("rq", 1)))
    assert read_all(one) == []
    assert good.messages == [MapEnd("rq", 1)] and bad.is_over


def test_who_never_reads_is_cut_off_at_the_bound() -> None:
    recorder = Recorder()
    link = Link(handler=recorder)
    ours = connect(link)
    limit, links.MAX_UNSENT_BYTES = links.MAX_UNSENT_BYTES, 8 << 20
    try:
        for _ in range(20):
            link.send(Welcome(1, "x", "up"), b"x" * (1 << 20))
    finally:
        links.MAX_UNSENT_BYTES = limit
    running_reactor().run_until(lambda: recorder.is_over, 30)
    assert link.is_closed and recorder.is_over
    ours.close()


def test_output_for_a_slow_reader_is_dropped_and_counted() -> None:
    link = Link(handler=Recorder())
    ours = connect(link)
    reader = LogReader(link)
    for _ in range(10):
        reader.send(LogOutput("pod-1", "a/b", "stdout"), b"x" * (1 << 20))
    frames, seen = FrameReader(), []
    while not seen or not seen[-1].payload.endswith(b"output dropped]\n"):
        frames.feed(receive(ours))
        seen += frames.frames()
    received = sum(len(frame.payload) for frame in seen[:-1])
    assert seen[-1].payload == b"[%d bytes of output dropped]\n" % ((10 << 20) - received)
    assert links.PAUSE_BYTES <= received < 10 << 20
    ours.close()


@pytest.mark.parametrize("size", [0, 10, 64 << 10, 1 << 20])
def test_a_payload_arrives_as_it_was_sent(size: int) -> None:
    link = Link(handler=Recorder())
    ours = connect(link)
    payload = bytes(range(256)) * (size // 256)
    link.send(MapEnd("rq", 1), payload)
    frames = FrameReader()
    while (frame := frames.next_frame()) is None:
        frames.feed(receive(ours))
    assert frame.payload == payload
    ours.close()


def test_the_owner_is_missed_even_where_its_handler_fails(reactor: Reactor, capsys: pytest.CaptureFixture[str]) -> None:
    class Failing(Recorder):
        def link_closed(self) -> None:
            raise RuntimeError("a defect in a handler")

    lost: list[bool] = []
    ours = connect(Link(handler=Failing(), on_lost=lambda: lost.append(True)))
    ours.close()
    assert reactor.run_until(lambda: bool(lost), 30)
    assert "a defect in a handler" in capsys.readouterr().err
