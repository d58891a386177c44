"""One WebSocket's link without a network: hellos that do not come, readers that do not read."""

from __future__ import annotations

import asyncio
import logging
import re
from typing import Any, cast

import pytest

from deepserve.protocol.framing import FrameReader, encode_frame
from deepserve.protocol.messages import Hello, LogOutput, MapEnd, Message, Refused, Welcome
from deepserve_controller.service import http_port, web_link
from deepserve_controller.service.bearer import Bearer
from deepserve_controller.service.connection import PortConnection
from deepserve_controller.service.handshake import Doorkeeper
from deepserve_controller.service.segments import Segments
from deepserve_controller.service.web_link import WebLink


class Recorder:
    def __init__(self) -> None:
        self.messages: list[Message] = []
        self.num_ends = 0

    def frame_received(self, message: Message, payload: bytes) -> None:
        if isinstance(message, MapEnd) and message.count == 13:
            raise RuntimeError("a defect in a handler")
        self.messages.append(message)

    def link_closed(self) -> None:
        self.num_ends += 1


class Welcoming:
    """The doorkeeper's part."""

    def __init__(self) -> None:
        self.handler = Recorder()

    def greet_remote(self, connection: WebLink, hello: Hello) -> Recorder:
        connection.send(Welcome(1, "ctl-1", "up"))
        return self.handler


class FarEnd:
    """Starlette's WebSocket, as far as a link uses it. `reads`: sending waits while it is clear."""

    def __init__(self) -> None:
        self.inbound: asyncio.Queue[dict[str, Any]] = asyncio.Queue()
        self.frames = FrameReader()
        self.received: list[Message] = []
        self.num_bytes = 0
        self.reads = asyncio.Event()
        self.reads.set()
        self.is_closed = False

    def say(self, message: Message, payload: bytes = b"") -> None:
        self.inbound.put_nowait({"type": "websocket.receive", "bytes": encode_frame(message, payload)})

    async def receive(self) -> dict[str, Any]:
        return await self.inbound.get()

    async def send_bytes(self, data: bytes) -> None:
        await self.reads.wait()
        self.num_bytes += len(data)
        self.received += [frame.message for frame in self.frames.take(data)]

    async def close(self) -> None:
        self.is_closed = True


class Scene:
    def __init__(self) -> None:
        self.far, self.door = FarEnd(), Welcoming()
        self.link = WebLink(cast(Any, self.far), cast(Doorkeeper, self.door), Segments("/nowhere"))

    def start(self, hello_timeout_s: float = 10.0) -> asyncio.Task[None]:
        return asyncio.ensure_future(self.link.serve(hello_timeout_s))

    async def until(self, is_so: Any) -> None:
        async with asyncio.timeout(10):
            while not is_so():
                await asyncio.sleep(0)


@pytest.mark.parametrize("beginning", [b"", b"DS\x01", encode_frame(Hello(1, "client", "slow"))[:-1]])
def test_a_hello_that_does_not_end_is_not_waited_for(beginning: bytes) -> None:
    async def main() -> None:
        scene = Scene()
        if beginning:
            scene.far.inbound.put_nowait({"type": "websocket.receive", "bytes": beginning})
        await scene.start(0.02)
        assert scene.far.received == [Refused("garbage", "no Hello came in time")] and scene.far.is_closed
        assert scene.door.handler.num_ends == 0

    asyncio.run(main())


def test_one_end_whatever_ends_it() -> None:
    async def main(last: dict[str, Any] | Message) -> None:
        scene = Scene()
        scene.far.say(Hello(1, "client", "abc"))
        scene.far.say(MapEnd("rq-1", 1))
        if isinstance(last, dict):
            scene.far.inbound.put_nowait(last)
        else:
            scene.far.say(last)
        await scene.start()
        assert scene.door.handler.messages[0] == MapEnd("rq-1", 1)
        assert scene.door.handler.num_ends == 1 and scene.far.is_closed
        scene.link.send(MapEnd("rq-2", 1))  # moot, and no error

    asyncio.run(main({"type": "websocket.disconnect", "code": 1006}))
    asyncio.run(main({"type": "websocket.receive", "bytes": b"garbage garbage"}))
    asyncio.run(main(MapEnd("rq-1", 13)))


def test_a_reader_that_does_not_read_is_slow_and_then_cut_off(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(web_link, "MAX_UNSENT_BYTES", 8 << 20)

    async def main() -> None:
        scene, resumed = Scene(), []
        serving = scene.start()
        scene.far.say(Hello(1, "client", "abc"))
        await scene.until(lambda: scene.far.received)
        scene.link.on_resume = lambda: resumed.append(True)
        scene.far.reads.clear()
        scene.link.send(LogOutput("pod-1", "a/b", "stdout"), bytes(5 << 20))
        assert scene.link.is_paused
        scene.far.reads.set()
        await scene.until(lambda: resumed)
        assert not scene.link.is_paused
        await scene.until(lambda: len(scene.far.received) == 2)
        scene.far.reads.clear()
        for _ in range(2):
            scene.link.send(LogOutput("pod-1", "a/b", "stdout"), bytes(5 << 20))
        await serving
        assert scene.door.handler.num_ends == 1

    asyncio.run(main())


def test_a_peer_that_answers_no_ping_is_cut_off(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(PortConnection, "body_timeout_s", 0.01)  # a WebSocket is no body that does not come
    monkeypatch.setattr(http_port, "PING_INTERVAL_S", 0.05)
    monkeypatch.setattr(http_port, "PING_TIMEOUT_S", 0.1)
    ended = []

    async def take(scope: Any, receive: Any, send: Any) -> None:
        await send({"type": "websocket.accept"})
        while (event := await receive())["type"] != "websocket.disconnect":
            pass
        ended.append(event)

    async def main() -> None:
        listener = http_port.listen_http("127.0.0.1", 0)
        server = http_port.make_server(take, None)
        serving = asyncio.ensure_future(server.serve(sockets=[listener]))
        reader, writer = await asyncio.open_connection(*listener.getsockname())
        writer.write(
            b"GET / HTTP/1.1\r\nHost: x\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n"
            b"Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: AAAAAAAAAAAAAAAAAAAAAA==\r\n\r\n"
        )
        said = await asyncio.wait_for(reader.read(), 20)  # to its end, without a pong
        assert b" 101 " in said and b"keepalive ping timeout" in said
        writer.close()
        server.should_exit = True
        await serving

    asyncio.run(main())
    assert len(ended) == 1


def test_keys_are_compared_whatever_their_bytes() -> None:
    class Request:
        def __init__(self, text: str | None) -> None:
            self.headers = {} if text is None else {"authorization": text}

    bearer = Bearer("k" * 40)
    assert bearer.is_brought_by(cast(Any, Request("Bearer " + "k" * 40)))
    for wrong in (None, "", "Bearer", "Bearer ", "k" * 40, "Bearer \xff", "Bearer \udcff", "Basic " + "k" * 40):
        assert not bearer.is_brought_by(cast(Any, Request(wrong)))


def test_what_the_http_server_complains_about_says_when_it_was(capsys: pytest.CaptureFixture[str]) -> None:
    async def nothing(*_: Any) -> None: ...

    http_port.make_server(nothing, None)
    logging.getLogger("uvicorn.error").error("ASGI callable returned without completing handshake.")
    [line] = capsys.readouterr().err.splitlines()
    assert re.match(r"\d{4}-\d\d-\d\d \d\d:\d\d:\d\d,\d{3} deepserve: HTTP port: ASGI callable returned", line), line
