"""`llm.openai.aio()` on a running event loop: what starts a controller holds nobody up there."""

from __future__ import annotations

import asyncio
import json
import threading
from pathlib import Path
from typing import Any

import pytest

openai = pytest.importorskip("openai")

from deepserve._late_address import PLACEHOLDER_URL  # noqa: E402
from deepserve._model import Model  # noqa: E402
from deepserve._model_openai import Address, OpenAIVerb  # noqa: E402
from deepserve.errors import ControllerUnreachable, ModelLoadError  # noqa: E402

ANSWER = {"id": "c", "object": "text_completion", "created": 0, "model": "tiny", "choices": []}


@pytest.fixture
def llm(tmp_path: Path) -> Model:
    (tmp_path / "config.json").write_text("{}")
    return Model("tiny", source=tmp_path)


class Api:
    """In place of the controller's: keeps the heads of requests, and answers each alike."""

    def __init__(self) -> None:
        self.heads: list[str] = []

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while head := await reader.readuntil(b"\r\n\r\n"):
            self.heads.append(head.decode().lower())
            length = self.heads[-1].partition("content-length: ")[2].split("\r\n")[0]
            await reader.readexactly(int(length))
            body = json.dumps(ANSWER).encode()
            start = b"HTTP/1.1 200 OK\r\nconnection: close\r\ncontent-type: application/json\r\ncontent-length: "
            writer.write(start + str(len(body)).encode() + b"\r\n\r\n" + body)
            await writer.drain()
            return writer.close()


def test_the_loop_goes_on_while_a_controller_starts(llm: Model, monkeypatch: pytest.MonkeyPatch) -> None:
    api, has_ticked, num_found = Api(), threading.Event(), 0

    async def test() -> None:
        server = await asyncio.start_server(api.serve, "127.0.0.1", 0)
        port = server.sockets[0].getsockname()[1]

        def find(verb: Any) -> Address:
            nonlocal num_found
            num_found += 1
            assert has_ticked.wait(60), "the loop stood still"
            return Address(f"http://127.0.0.1:{port}/v1", "sk-it")

        monkeypatch.setattr(OpenAIVerb, "_address", find)
        client = llm.openai.aio(max_retries=0)
        assert str(client.base_url).startswith(PLACEHOLDER_URL) and not num_found
        asked = [asyncio.create_task(client.with_options(timeout=90).completions.create(model="tiny", prompt="a"))]
        asked += [asyncio.create_task(client.completions.create(prompt="b")) for _ in range(2)]
        asked[1].cancel()
        while not num_found:
            await asyncio.sleep(0)
        has_ticked.set()
        done = await asyncio.gather(*asked, return_exceptions=True)
        assert [type(one).__name__ for one in done] == ["Completion", "CancelledError", "Completion"]
        await client.completions.create(prompt="c")
        assert (str(client.base_url), client.api_key, num_found) == (f"http://127.0.0.1:{port}/v1/", "sk-it", 1)
        await client.close()
        server.close()

    asyncio.run(test())
    assert len(api.heads) == 3
    for head in api.heads:
        assert head.startswith("post /v1/completions ") and "bearer sk-it" in head and "host: 127.0.0.1:" in head


def test_what_goes_wrong_is_told_and_tried_again(llm: Model, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    tries: list[int] = []

    def find(verb: Any) -> Address:
        tries.append(1)
        raise ControllerUnreachable("there is none")

    monkeypatch.setattr(OpenAIVerb, "_address", find)

    async def test() -> None:
        async with llm.openai.aio(max_retries=0) as client:
            for _ in range(2):
                with pytest.raises((ControllerUnreachable, openai.APIConnectionError)) as caught:
                    await client.completions.create(prompt="a")
                assert ControllerUnreachable in (type(caught.value), type(caught.value.__cause__))
        with pytest.raises(ModelLoadError):
            Model("none", source=tmp_path / "none").openai.aio()

    asyncio.run(test())
    assert len(tries) == 2
