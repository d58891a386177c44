"""One WebSocket's link without a network: hellos that do not come, readers that do not read, heads that do not end."""

from __future__ import annotations

import asyncio
import contextlib
import json
from typing import Any, cast

import pytest
import uvicorn
from uvicorn.server import ServerState

from deepserve.protocol.framing import FrameReader, encode_frame
from deepserve.protocol.messages import Hello, LogOutput, MapEnd, Message, Refused, Welcome
from deepserve_controller.service import http_port, impatience, web_link
from deepserve_controller.service.bearer import Bearer
from deepserve_controller.service.handshake import Doorkeeper
from deepserve_controller.service.impatience import ImpatientProtocol
from deepserve_controller.service.segments import Segments
from deepserve_controller.service.web_link import WebLink
from flowserve.server.connection import Connection


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


def test_a_head_that_does_not_end_is_not_waited_for(monkeypatch: pytest.MonkeyPatch) -> None:

    async def answer(scope: Any, receive: Any, send: Any) -> None:
        await asyncio.sleep(1.0)  # a slow answer is no slow head
        await send({"type": "http.response.start", "status": 200, "headers": [(b"content-length", b"2")]})
        await send({"type": "http.response.body", "body": b"ok"})

    async def say(port: int, text: bytes) -> bytes:
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        writer.write(text)
        try:
            return await asyncio.wait_for(reader.read(), 30)
        except ConnectionResetError:
            return b""
        finally:
            writer.close()

    async def main() -> None:
        config = uvicorn.Config(answer, log_level="critical", lifespan="off")
        loop = asyncio.get_running_loop()
        server = await loop.create_server(lambda: ImpatientProtocol(config, ServerState(), {}), "127.0.0.1", 0)
        port = server.sockets[0].getsockname()[1]
        monkeypatch.setattr(impatience, "HEAD_TIMEOUT_S", 0.05)
        assert await say(port, b"") == b""
        assert await say(port, b"GET / HTTP/1.1\r\nHost: x\r\nX-Slow: ") == b""
        monkeypatch.setattr(impatience, "HEAD_TIMEOUT_S", 0.5)  # enough for a head on a busy machine
        whole = b"GET / HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n"
        assert (await say(port, whole)).endswith(b"ok")
        server.close()

    asyncio.run(main())


@pytest.mark.parametrize("protocol", [ImpatientProtocol, Connection])
def test_a_body_that_nobody_reads_does_not_hold_a_connection(
    monkeypatch: pytest.MonkeyPatch, protocol: type[asyncio.Protocol]
) -> None:
    """Of one without a key, which is answered at once: its first byte ends uvicorn's own wait for another request."""
    monkeypatch.setattr(f"{protocol.__module__}.BODY_TIMEOUT_S", 0.1)

    async def refuse(scope: Any, receive: Any, send: Any) -> None:
        await send({"type": "http.response.start", "status": 401, "headers": [(b"content-length", b"0")]})
        await send({"type": "http.response.body", "body": b""})

    async def main() -> None:
        config = uvicorn.Config(refuse, log_level="critical", lifespan="off")
        loop = asyncio.get_running_loop()
        server = await loop.create_server(lambda: cast(Any, protocol)(config, ServerState(), {}), "127.0.0.1", 0)
        reader, writer = await asyncio.open_connection("127.0.0.1", server.sockets[0].getsockname()[1])
        writer.write(b"POST / HTTP/1.1\r\nHost: x\r\nContent-Length: 10\r\n\r\n")
        assert b" 401 " in await asyncio.wait_for(reader.readuntil(b"\r\n\r\n"), 30)
        writer.write(b"x")
        with contextlib.suppress(ConnectionResetError):
            assert await asyncio.wait_for(reader.read(), 30) == b""
        writer.close()
        server.close()

    asyncio.run(main())


@pytest.mark.parametrize("protocol", [ImpatientProtocol, Connection])
def test_a_stream_to_a_client_of_http_1_0_has_no_lengths_in_it(protocol: type[asyncio.Protocol]) -> None:
    async def answer(scope: Any, receive: Any, send: Any) -> None:
        headers = [(b"content-length", b"6")] if scope["path"] == "/whole" else []
        await send({"type": "http.response.start", "status": 200, "headers": headers})
        for piece in (b"one", b"two"):
            await send({"type": "http.response.body", "body": piece, "more_body": True})
        await send({"type": "http.response.body"})

    async def main() -> None:
        config = uvicorn.Config(answer, log_level="critical", lifespan="off")
        loop = asyncio.get_running_loop()
        server = await loop.create_server(lambda: cast(Any, protocol)(config, ServerState(), {}), "127.0.0.1", 0)
        for path, is_chunked in ((b"/stream", False), (b"/whole", False), (b"/stream", True)):
            reader, writer = await asyncio.open_connection("127.0.0.1", server.sockets[0].getsockname()[1])
            head = b" HTTP/1.1\r\nHost: x\r\nConnection: close" if is_chunked else b" HTTP/1.0"
            writer.write(b"GET " + path + head + b"\r\n\r\n")
            head, _, body = (await asyncio.wait_for(reader.read(), 30)).partition(b"\r\n\r\n")
            assert (b"transfer-encoding" in head) == is_chunked
            assert body == (b"3\r\none\r\n3\r\ntwo\r\n0\r\n\r\n" if is_chunked else b"onetwo")
            writer.close()
        server.close()

    asyncio.run(main())


@pytest.mark.parametrize("protocol", [ImpatientProtocol, Connection])
def test_a_head_without_end_is_not_kept(protocol: type[asyncio.Protocol]) -> None:
    """One long header, many short ones, a long address, and those that follow a body in chunks."""

    async def answer(scope: Any, receive: Any, send: Any) -> None:
        await send({"type": "http.response.start", "status": 401, "headers": [(b"content-length", b"0")]})
        await send({"type": "http.response.body", "body": b""})

    async def say(port: int, head: bytes, more: bytes) -> bytes:
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        said = b""
        try:
            writer.write(head)
            for _ in range(64):
                writer.write(more * (8192 // len(more)))
                await writer.drain()
            said = await reader.read()
        except ConnectionError:
            pass
        finally:
            writer.close()
        return said

    async def main() -> None:
        config = uvicorn.Config(answer, log_level="critical", lifespan="off")
        loop = asyncio.get_running_loop()
        made: list[Any] = []

        def make() -> Any:
            made.append(cast(Any, protocol)(config, ServerState(), {}))
            return made[-1]

        server = await loop.create_server(make, "127.0.0.1", 0)
        port = server.sockets[0].getsockname()[1]
        head, chunked = b"GET / HTTP/1.1\r\nHost: x\r\n", b"Transfer-Encoding: chunked\r\n\r\n1\r\nx\r\n0\r\n"
        for begun, more in (
            (head, b"X-One: two\r\n"),
            (head + b"X-One: ", b"y"),
            (b"GET /", b"z"),
            (head + chunked, b"a: b\r\n"),
        ):
            said = await asyncio.wait_for(say(port, begun, more), 30)
            assert b" 431 " in said or not said, said
        for each in made:
            kept = sum(len(name) + len(value) for name, value in each.headers or ()) + len(each.url or b"")
            assert kept < 512 << 10 and each.transport.is_closing()
        server.close()

    asyncio.run(main())


@pytest.mark.parametrize("protocol", [ImpatientProtocol, Connection])
def test_what_no_route_can_answer_is_an_error_of_openais_shape(protocol: type[asyncio.Protocol]) -> None:
    """Heads that come at once are measured too, and no such answer is taken for that of an earlier request."""
    began, ends = asyncio.Event(), asyncio.Event()

    async def answer(scope: Any, receive: Any, send: Any) -> None:
        if scope["path"] == "/slow":
            began.set()
            await ends.wait()
        if scope["path"] == "/body":
            while (await receive()).get("more_body"):
                pass
        await send({"type": "http.response.start", "status": 401, "headers": [(b"content-length", b"0")]})
        await send({"type": "http.response.body", "body": b""})

    async def say(port: int, *pieces: bytes) -> tuple[int, Any]:
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        writer.write(pieces[0])
        for piece in pieces[1:]:
            await began.wait()
            writer.write(piece)
        try:
            head = await reader.readuntil(b"\r\n\r\n")
            body = b"" if b" 401 " in head else await reader.read()
        except (ConnectionError, asyncio.IncompleteReadError):
            return 0, None
        finally:
            writer.close()
        return int(head.split()[1]), json.loads(body)["error"] if body else None

    def request(size: int, path: bytes = b"/") -> bytes:
        return b"GET " + path + b" HTTP/1.1\r\nHost: x\r\nX-One: " + b"y" * (size - 40) + b"\r\n\r\n"

    async def main() -> None:
        config = uvicorn.Config(answer, log_level="critical", lifespan="off")
        loop = asyncio.get_running_loop()
        server = await loop.create_server(lambda: cast(Any, protocol)(config, ServerState(), {}), "127.0.0.1", 0)
        port = server.sockets[0].getsockname()[1]
        limit = impatience.MAX_HEAD_BYTES
        assert await say(port, request(limit)) == (401, None)
        for size in (limit + 100, 120_000):
            status, error = await say(port, request(size))
            assert (status, error["type"], error["code"]) == (431, "invalid_request_error", None)
            assert str(limit) in error["message"]
        chunked = b"POST /body HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n1\r\nx\r\nmany\r\n"
        for nonsense in (b"HELLO\r\n\r\n", chunked):
            status, error = await say(port, nonsense)
            assert (status, error["type"], error["message"]) == (
                400,
                "invalid_request_error",
                "what came is no valid HTTP request",
            )
        for second in (request(limit + 100), b"HELLO\r\n\r\n"):
            began.clear()
            assert await say(port, request(100, b"/slow"), second) == (0, None)
        ends.set()
        server.close()

    asyncio.run(asyncio.wait_for(main(), 60))


def test_a_peer_that_answers_no_ping_is_cut_off(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(impatience, "BODY_TIMEOUT_S", 0.01)  # a WebSocket is no body that does not come
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
