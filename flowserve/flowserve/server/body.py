"""The body of a request: read up to a limit, then decoded into one of the request types."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, TypeVar

import msgspec

from .api_error import ApiError, invalid

if TYPE_CHECKING:
    from starlette.requests import Request

T = TypeVar("T", bound=msgspec.Struct)

_PLACE = re.compile(r" - at `(?P<path>[^`]*)`$")
_MISSING = re.compile(r"required field `(?P<name>[^`]*)`")


async def read_body(request: Request, limit_bytes: int) -> bytes:
    """Raises ApiError 413 as soon as more than the limit is announced or has come."""
    announced = request.headers.get("content-length", "")
    if announced.isdecimal() and int(announced) > limit_bytes:
        raise _too_large(limit_bytes)
    chunks, size = [], 0
    async for chunk in request.stream():
        size += len(chunk)
        if size > limit_bytes:
            raise _too_large(limit_bytes)
        chunks.append(chunk)
    return b"".join(chunks)


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
    # The rest of the body is not read, so the connection cannot serve another request.
    headers = {"connection": "close"}
    return ApiError(413, f"the body is larger than {limit_bytes} bytes", code="request_too_large", headers=headers)
