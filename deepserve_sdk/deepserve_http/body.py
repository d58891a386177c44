"""The body of an HTTP request, bounded while it streams in: in bytes, and in the wait for the next of them."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator
from typing import TYPE_CHECKING, Literal

if TYPE_CHECKING:
    from starlette.requests import Request

STATUS = {"too_large": 413, "too_slow": 408}


class BodyRefused(Exception):
    """Nothing more of the body is read here."""

    def __init__(self, code: Literal["too_large", "too_slow"], text: str) -> None:
        super().__init__(text)
        self.status, self.code, self.text = STATUS[code], code, text


async def read_body(request: Request, max_bytes: int, patience_s: float) -> bytes:
    """`patience_s`: for the next bytes.

    Raises BodyRefused, 413 as soon as more than the limit is announced or has come, 408 where nothing more comes;
    starlette's ClientDisconnect.
    """
    announced = request.headers.get("content-length", "")
    if announced.isdecimal() and int(announced) > max_bytes:
        raise _too_large(max_bytes)
    body = bytearray()
    chunks = request.stream()
    while (chunk := await _next(chunks, patience_s)) is not None:
        body += chunk
        if len(body) > max_bytes:
            raise _too_large(max_bytes)
    return bytes(body)


async def _next(chunks: AsyncGenerator[bytes, None], patience_s: float) -> bytes | None:
    """None at the end."""
    try:
        async with asyncio.timeout(patience_s):
            return await anext(chunks, None)
    except TimeoutError:
        raise BodyRefused("too_slow", f"no more of the body came for {patience_s:g} s") from None


def _too_large(max_bytes: int) -> BodyRefused:
    return BodyRefused("too_large", f"the body is larger than {max_bytes} bytes")
