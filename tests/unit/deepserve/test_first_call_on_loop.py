"""The first call of an event loop, with a large argument: the loop goes on until the controller has said its folder."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

import deepserve
from deepserve import _current_client
from deepserve._client import Client
from deepserve.protocol.framing import Buffer
from deepserve.protocol.map_messages import MapInputs
from deepserve.protocol.messages import DefineFunction, MapInput, Message, OpenRequest, Welcome

LARGE = b"x" * (1 << 20)


@deepserve.function
def size(data: bytes) -> int:
    return len(data)


@deepserve.function
def parts(data: bytes) -> Iterator[bytes]:
    yield data


async def collected(items: Any) -> list[Any]:
    return [item async for item in items]


@pytest.mark.parametrize(
    "ask",
    [
        lambda: size.remote.aio(LARGE),
        lambda: size.remote.aio(data=LARGE),
        lambda: size.spawn.aio(LARGE),
        lambda: collected(parts.remote.aio(LARGE)),
        lambda: collected(size.map.aio([LARGE])),
        lambda: size.spawn_map.aio([LARGE]),
    ],
)
def test_it_goes_on_until_the_controller_has_started(ask: Callable[[], Any], tmp_path: Path) -> None:
    sent: list[Message] = []

    def take(message: Message, payload: Buffer) -> None:
        sent.append(message)

    def values() -> list[Message]:
        kinds = (MapInput, MapInputs)
        return [one for one in sent if isinstance(one, kinds) or (isinstance(one, OpenRequest) and one.kind != "map")]

    async def main() -> None:
        task = asyncio.ensure_future(ask())
        while not any(isinstance(one, DefineFunction) for one in sent):
            assert not task.done()
            await asyncio.sleep(0)
        for _ in range(100):
            await asyncio.sleep(0)
        assert not task.done() and not values()
        client.controller.put(Welcome(1, "c", "embedded", folder=str(tmp_path), segments=str(tmp_path)))
        while not values():
            assert not task.done() or task.exception() is None
            await asyncio.sleep(0)
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)

    client, before = Client(take, welcome=None, client_id="t", is_pod=False), _current_client.installed_client()
    _current_client.install(client)
    try:
        asyncio.run(main())
    finally:
        _current_client.install(before)
    assert list(tmp_path.iterdir()), "the argument went into the folder"
