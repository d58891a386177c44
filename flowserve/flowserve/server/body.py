"""The body of a request: read up to a limit, then decoded into one of the request types."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, TypeVar

import msgspec

from deepserve_http import body as slow_body
from deepserve_http.lone_surrogates import lone_surrogate_in_json

from .api_error import ApiError, invalid

if TYPE_CHECKING:
    from starlette.requests import Request

T = TypeVar("T", bound=msgspec.Struct)

CHUNK_TIMEOUT_S = 20.0
"""For the next bytes of a body."""

_CLOSING = {"connection": "close"}
"""The rest of the body is not read, so the connection cannot serve another request."""

_CODES = {"too_large": "request_too_large", "too_slow": "request_timeout"}

_PLACE = re.compile(r" - at `(?P<path>[^`]*)`$")
_MISSING = re.compile(r"required field `(?P<name>[^`]*)`")


async def read_body(request: Request, limit_bytes: int) -> bytes:
    """Raises ApiError 413 or 408; starlette's ClientDisconnect."""
    try:
        return await slow_body.read_body(request, limit_bytes, CHUNK_TIMEOUT_S)
    except slow_body.BodyRefused as refused:
        raise ApiError(refused.status, refused.text, code=_CODES[refused.code], headers=_CLOSING) from None


def decode_body(body: bytes, kind: type[T]) -> T:
    """Raises ApiError 400 that names the field, for whatever bytes."""
    try:
        return msgspec.json.decode(body, type=kind)
    except msgspec.ValidationError as error:
        text = str(error)
        raise invalid(text, _param(text)) from None
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        if found := lone_surrogate_in_json(body):
            raise invalid(str(found), found.place or None) from None
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
