"""LateAddress: where the OpenAI API is, found at an asynchronous client's first request, beside its event loop."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any

from deepserve._model_openai import Address

PLACEHOLDER_HOST = "controller.deepserve.invalid"
PLACEHOLDER_URL = f"http://{PLACEHOLDER_HOST}/v1"
PLACEHOLDER_KEY = "not-known-yet"


class LateAddress:
    """find: blocks while a controller starts. on_found: called with what it returned, on the loop."""

    def __init__(self, find: Callable[[], Address]) -> None:
        self._find = find
        self._finding: asyncio.Future[Address] | None = None
        self.on_found: Callable[[Address], None] = lambda address: None

    async def put_on(self, request: Any) -> None:
        """A hook of httpx: a request to the placeholder goes to the real place. Raises what `find` raises."""
        url = request.url
        if url.host != PLACEHOLDER_HOST:
            return
        address = await self._address()
        there = type(url)(address.base_url)
        path = there.path.rstrip("/") + url.path.removeprefix("/v1")
        request.url = url.copy_with(scheme=there.scheme, host=there.host, port=there.port, path=path)
        request.headers["Host"] = there.netloc.decode()
        request.headers["Authorization"] = f"Bearer {address.api_key}"

    async def _address(self) -> Address:
        """Of several requests the first one looks for it; one that is cancelled leaves the others their answer."""
        if self._finding is None:
            self._finding = asyncio.ensure_future(self._look())
        return await asyncio.shield(self._finding)

    async def _look(self) -> Address:
        try:
            address = await asyncio.to_thread(self._find)
        except BaseException:
            self._finding = None  # the next request tries again
            raise
        self.on_found(address)
        return address
