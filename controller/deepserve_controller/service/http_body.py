"""The body of an HTTP request, bounded while it streams in: in bytes, and in the wait for the next of them."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator

from starlette.requests import Request

PATIENCE_S = 30.0
"""For the next bytes of a body."""


class BodyRefused(Exception):
    def __init__(self, status: int, code: str, text: str) -> None:
        super().__init__(text)
        self.status, self.code, self.text = status, code, text


async def read_body(request: Request, max_bytes: int) -> bytes:
    """Raises BodyRefused 413 as soon as more than the limit is announced or has come, 408 where nothing more comes."""
    announced = request.headers.get("content-length", "")
    if announced.isdecimal() and int(announced) > max_bytes:
        raise _too_large(max_bytes)
    body = bytearray()
    chunks = request.stream()
    while (chunk := await _next(chunks)) is not None:
        body += chunk
        if len(body) > max_bytes:
            raise _too_large(max_bytes)
    return bytes(body)


async def _next(chunks: AsyncGenerator[bytes, None]) -> bytes | None:
    try:
        async with asyncio.timeout(PATIENCE_S):
            return await anext(chunks, None)
    except TimeoutError:
        raise BodyRefused(408, "too_slow", f"no more of the body came for {PATIENCE_S:g} s") from None


def _too_large(max_bytes: int) -> BodyRefused:
    return BodyRefused(413, "too_large", f"the body is larger than {max_bytes} bytes")
