"""The body of a request: read up to a limit, then decoded into one of the request types."""

from __future__ import annotations

import asyncio
import re
from collections.abc import AsyncIterator
from typing import TYPE_CHECKING, TypeVar

import msgspec

from .api_error import ApiError, invalid

if TYPE_CHECKING:
    from starlette.requests import Request

T = TypeVar("T", bound=msgspec.Struct)

CHUNK_TIMEOUT_S = 20.0
"""For the next bytes of a body."""

_CLOSING = {"connection": "close"}
"""The rest of the body is not read, so the connection cannot serve another request."""

_PLACE = re.compile(r" - at `(?P<path>[^`]*)`$")
_MISSING = re.compile(r"required field `(?P<name>[^`]*)`")


async def read_body(request: Request, limit_bytes: int) -> bytes:
    """Raises ApiError: 413 as soon as more than the limit is announced or has come, 408 when nothing comes any more;
    starlette's ClientDisconnect.
    """
    announced = request.headers.get("content-length", "")
    if announced.isdecimal() and int(announced) > limit_bytes:
        raise _too_large(limit_bytes)
    chunks, size = [], 0
    stream = request.stream()
    while (chunk := await _next(stream)) is not None:
        size += len(chunk)
        if size > limit_bytes:
            raise _too_large(limit_bytes)
        chunks.append(chunk)
    return b"".join(chunks)


async def _next(stream: AsyncIterator[bytes]) -> bytes | None:
    """None at the end."""
    try:
        async with asyncio.timeout(CHUNK_TIMEOUT_S):
            return await anext(stream, None)
    except TimeoutError:
        text = f"no more of the body came within {CHUNK_TIMEOUT_S:g} seconds"
        raise ApiError(408, text, code="request_timeout", headers=_CLOSING) from None


def decode_body(body: bytes, kind: type[T]) -> T:
    """Raises ApiError 400 that names the field, for whatever bytes."""
    try:
        return msgspec.json.decode(body, type=kind)
    except msgspec.ValidationError as error:
        text = str(error)
        raise invalid(text, _param(text)) from None
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        raise invalid(f"the body is not JSON: {error}") from None
    except RecursionError:
        raise invalid("the body is nested too deeply") from None


def _param(text: str) -> str | None:
    """`temperature` of "Expected `float`, got `str` - at `$.temperature`"."""
    place = _PLACE.search(text)
    path = place["path"].lstrip("$").lstrip(".") if place else ""
    missing = _MISSING.search(text)
    if missing:
        path = f"{path}.{missing['name']}" if path else missing["name"]
    return path or None


def _too_large(limit_bytes: int) -> ApiError:
    return ApiError(413, f"the body is larger than {limit_bytes} bytes", code="request_too_large", headers=_CLOSING)
