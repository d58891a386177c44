"""One connection over a real socket pair, without a controller."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import Awaitable, Callable

import pytest

from deepserve.protocol.framing import FrameReader, encode_frame
from deepserve.protocol.messages import Hello, LogOutput, MapEnd, Message, Refused, Welcome
from deepserve_controller.errors import Refusal
from deepserve_controller.service import links
from deepserve_controller.service.links import Link
from deepserve_controller.service.logs import LogReader


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


async def connect(link: Link) -> socket.socket:
    ours, theirs = socket.socketpair()
    ours.setblocking(False)
    theirs.setblocking(False)
    await asyncio.get_running_loop().connect_accepted_socket(lambda: link, theirs)
    return ours


async def read_all(connection: socket.socket) -> list[Message]:
    loop, reader = asyncio.get_running_loop(), FrameReader()
    while data := await asyncio.wait_for(loop.sock_recv(connection, 1 << 16), 5):
        reader.feed(data)
    return [frame.message for frame in reader.frames()]


def in_loop(test: Callable[[], Awaitable[None]]) -> Callable[[], None]:
    def run() -> None:
        asyncio.run(test())  # type: ignore[arg-type]

    run.__name__, run.__doc__ = test.__name__, test.__doc__
    return run


def never(link: Link, hello: Hello) -> Recorder:
    raise AssertionError("not greeted")


@in_loop
async def test_who_says_nothing_is_sent_away() -> None:
    ours = await connect(Link(never, hello_timeout_s=0.05))
    assert await read_all(ours) == [Refused("garbage", "no Hello came in time")]


@in_loop
async def test_frames_that_came_with_the_hello_are_handled_after_it() -> None:
    recorder = Recorder()
    ours = await connect(Link(lambda link, hello: recorder))
    ours.send(encode_frame(Hello(1, "client", "x")) + encode_frame(MapEnd("rq", 1)) + encode_frame(MapEnd("rq", 2)))
    await asyncio.sleep(0.02)
    assert recorder.messages == [MapEnd("rq", 1), MapEnd("rq", 2)]
    ours.close()
    await asyncio.sleep(0.02)
    assert recorder.is_over


@in_loop
async def test_a_log_connection_turns_to_bytes_right_after_its_hello() -> None:
    recorder = RawRecorder()
    ours = await connect(Link(lambda link, hello: recorder))
    ours.send(encode_frame(Hello(1, "log", "x")) + b"DS no frame")
    await asyncio.sleep(0.02)
    ours.send(b" at all")
    await asyncio.sleep(0.02)
    assert recorder.data == b"DS no frame at all"
    ours.close()


@in_loop
async def test_nothing_is_handled_after_a_refusal() -> None:
    def greet(link: Link, hello: Hello) -> Recorder:
        raise Refusal("key", "no")

    ours = await connect(Link(greet))
    ours.send(encode_frame(Hello(1, "client", "x")) * 3)
    assert await read_all(ours) == [Refused("key", "no")]


@in_loop
async def test_a_defect_ends_only_its_own_link() -> None:
    bad, good = Recorder(), Recorder()
    one, two = await connect(Link(handler=bad)), await connect(Link(handler=good))
    one.send(encode_frame(MapEnd("rq", 13)))
    two.send(encode_frame(MapEnd("rq", 1)))
    assert await read_all(one) == []
    assert good.messages == [MapEnd("rq", 1)] and bad.is_over


@in_loop
async def test_who_never_reads_is_cut_off_at_the_bound() -> None:
    recorder = Recorder()
    link = Link(handler=recorder)
    ours = await connect(link)
    limit, links.MAX_UNSENT_BYTES = links.MAX_UNSENT_BYTES, 8 << 20
    try:
        for _ in range(20):
            link.send(Welcome(1, "x", "up"), b"x" * (1 << 20))
    finally:
        links.MAX_UNSENT_BYTES = limit
    await asyncio.sleep(0.02)
    assert link.is_closed and recorder.is_over
    ours.close()


@in_loop
async def test_output_for_a_slow_reader_is_dropped_and_counted() -> None:
    link = Link(handler=Recorder())
    ours = await connect(link)
    reader = LogReader(link)
    for _ in range(10):
        reader.send(LogOutput("pod-1", "a/b", "stdout"), b"x" * (1 << 20))
    loop, frames, seen = asyncio.get_running_loop(), FrameReader(), []
    while not seen or not seen[-1].payload.endswith(b"output dropped]\n"):
        frames.feed(await asyncio.wait_for(loop.sock_recv(ours, 1 << 20), 5))
        seen += frames.frames()
    received = sum(len(frame.payload) for frame in seen[:-1])
    assert seen[-1].payload == b"[%d bytes of output dropped]\n" % ((10 << 20) - received)
    assert links.PAUSE_BYTES <= received < 10 << 20
    ours.close()


@pytest.mark.parametrize("size", [0, 10, 64 << 10, 1 << 20])
def test_a_payload_arrives_as_it_was_sent(size: int) -> None:
    async def run() -> None:
        link = Link(handler=Recorder())
        ours = await connect(link)
        payload = bytes(range(256)) * (size // 256)
        link.send(MapEnd("rq", 1), payload)
        loop, frames = asyncio.get_running_loop(), FrameReader()
        while (frame := frames.next_frame()) is None:
            frames.feed(await asyncio.wait_for(loop.sock_recv(ours, 1 << 20), 5))
        assert frame.payload == payload
        ours.close()

    asyncio.run(run())
