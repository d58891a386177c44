"""Connections whose clients bring no head, no body, too much, or nothing that is HTTP: of both servers."""

from __future__ import annotations

import asyncio
import contextlib
import json
from collections.abc import AsyncIterator
from typing import Any

import pytest
import uvicorn
from uvicorn.server import ServerState

from deepserve_controller.service.connection import PortConnection
from deepserve_http.connection import Connection
from flowserve.server.connection import ServerConnection

both = pytest.mark.parametrize("protocol", [PortConnection, ServerConnection])


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
        server = await loop.create_server(lambda: PortConnection(config, ServerState(), {}), "127.0.0.1", 0)
        port = server.sockets[0].getsockname()[1]
        monkeypatch.setattr(PortConnection, "head_timeout_s", 0.05)
        assert await say(port, b"") == b""
        assert await say(port, b"GET / HTTP/1.1\r\nHost: x\r\nX-Slow: ") == b""
        monkeypatch.setattr(PortConnection, "head_timeout_s", 0.5)  # enough for a head on a busy machine
        whole = b"GET / HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n"
        assert (await say(port, whole)).endswith(b"ok")
        server.close()

    asyncio.run(main())


@both
def test_a_body_that_nobody_reads_does_not_hold_a_connection(
    monkeypatch: pytest.MonkeyPatch, protocol: type[Connection]
) -> None:
    """Of one without a key, which is answered at once: its first byte ends uvicorn's own wait for another request."""
    monkeypatch.setattr(protocol, "body_timeout_s", 0.1)

    async def refuse(scope: Any, receive: Any, send: Any) -> None:
        await send({"type": "http.response.start", "status": 401, "headers": [(b"content-length", b"0")]})
        await send({"type": "http.response.body", "body": b""})

    async def main() -> None:
        config = uvicorn.Config(refuse, log_level="critical", lifespan="off")
        loop = asyncio.get_running_loop()
        server = await loop.create_server(lambda: protocol(config, ServerState(), {}), "127.0.0.1", 0)
        reader, writer = await asyncio.open_connection("127.0.0.1", server.sockets[0].getsockname()[1])
        writer.write(b"POST / HTTP/1.1\r\nHost: x\r\nContent-Length: 10\r\n\r\n")
        assert b" 401 " in await asyncio.wait_for(reader.readuntil(b"\r\n\r\n"), 30)
        writer.write(b"x")
        with contextlib.suppress(ConnectionResetError):
            assert await asyncio.wait_for(reader.read(), 30) == b""
        writer.close()
        server.close()

    asyncio.run(main())


@both
def test_a_stream_to_a_client_of_http_1_0_has_no_lengths_in_it(protocol: type[Connection]) -> None:
    async def answer(scope: Any, receive: Any, send: Any) -> None:
        headers = [(b"content-length", b"6")] if scope["path"] == "/whole" else []
        await send({"type": "http.response.start", "status": 200, "headers": headers})
        for piece in (b"one", b"two"):
            await send({"type": "http.response.body", "body": piece, "more_body": True})
        await send({"type": "http.response.body"})

    async def main() -> None:
        config = uvicorn.Config(answer, log_level="critical", lifespan="off")
        loop = asyncio.get_running_loop()
        server = await loop.create_server(lambda: protocol(config, ServerState(), {}), "127.0.0.1", 0)
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


@both
def test_a_head_without_end_is_not_kept(protocol: type[Connection]) -> None:
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
            made.append(protocol(config, ServerState(), {}))
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


@both
def test_what_no_route_can_answer_is_an_error_of_openais_shape(protocol: type[Connection]) -> None:
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
        server = await loop.create_server(lambda: protocol(config, ServerState(), {}), "127.0.0.1", 0)
        port = server.sockets[0].getsockname()[1]
        limit = protocol.max_head_bytes
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


@pytest.mark.parametrize(
    ("target", "is_api"),
    [
        (b"/api/call/shop/buy", True),
        (b"/api/status?verbose=1", True),
        (b"/%61pi/status", True),
        (b"http://host/api/status", True),
        (b"/api/call/" + b"x" * 60_000, True),
        (b"/v1/chat/completions", False),
        (b"/v1/models?of=/api/status", False),
        (b"/apiary", False),
        (b"http://[/api/status", False),
        (b"http:", False),
    ],
    ids=lambda target: str(target)[:40],
)
@pytest.mark.parametrize("is_at_once", [True, False])
def test_an_error_before_routing_has_the_shape_of_its_path(target: bytes, is_api: bool, is_at_once: bool) -> None:
    """The head that is too large comes at once, or does not end; what is no head comes behind a request's line."""

    async def main() -> None:
        async with serving(PortConnection) as port:
            line, end = b"GET " + target + b" HTTP/1.1\r\nHost: x\r\nX-One: ", b"\r\n\r\n" if is_at_once else b""
            # Not a byte more than is refused: what the server leaves unread resets the connection.
            filler = PortConnection.max_head_bytes - len(line) + (len(b"GET  HTTP/1.1\r\n") if is_at_once else 1)
            too_large = line + b"y" * filler + end
            heads = [(too_large, 431, "too_large")]
            if len(target) < 1000:
                heads.append((b"GET " + target + b" HTTP/1.1\r\nno header\r\n\r\n", 400, "invalid"))
            for head, status, code in heads:
                found, error = await refused(port, head)
                assert found == status
                assert set(error) == ({"code", "text"} if is_api else {"message", "type", "param", "code"}), error
                assert error["code"] == (code if is_api else None)

    asyncio.run(asyncio.wait_for(main(), 60))


def test_the_path_of_an_earlier_request_says_nothing_of_what_is_none() -> None:
    async def main() -> None:
        async with serving(PortConnection) as port:
            _, error = await refused(port, b"GET /api/status HTTP/1.1\r\nHost: x\r\n\r\n", b"\x00\x01\r\n\r\n")
            assert error["type"] == "invalid_request_error"

    asyncio.run(asyncio.wait_for(main(), 60))


@contextlib.asynccontextmanager
async def serving(protocol: type[Connection]) -> AsyncIterator[int]:
    """The port; whatever is asked is answered by 204."""

    async def answer(scope: Any, receive: Any, send: Any) -> None:
        await send({"type": "http.response.start", "status": 204, "headers": []})
        await send({"type": "http.response.body", "body": b""})

    config = uvicorn.Config(answer, log_level="critical", lifespan="off")
    server = await asyncio.get_running_loop().create_server(lambda: protocol(config, ServerState(), {}), "127.0.0.1", 0)
    yield server.sockets[0].getsockname()[1]
    server.close()


async def refused(port: int, *pieces: bytes) -> tuple[int, dict[str, Any]]:
    """Status and error of the answer to the last piece; those before are whole requests."""
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    try:
        for piece in pieces[:-1]:
            writer.write(piece)
            assert b" 204 " in await reader.readuntil(b"\r\n\r\n")
        writer.write(pieces[-1])
        head, _, body = (await reader.read()).partition(b"\r\n\r\n")
        return int(head.split()[1]), json.loads(body)["error"]
    finally:
        writer.close()
