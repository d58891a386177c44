"""What the gateway reads of a request itself: how large it is, that it is a JSON object, and whose model it names."""

from __future__ import annotations

import re
from typing import TypeVar

import msgspec
from starlette.requests import Request

from deepserve.protocol.sampling_bounds import out_of_bounds
from deepserve_controller.service.connection import BODY_PATIENCE_S
from deepserve_controller.service.openai.fault import Fault, invalid
from deepserve_http import body as slow_body
from deepserve_http.lone_surrogates import lone_surrogate_in_json

T = TypeVar("T")
MAX_BODY_BYTES = 32 << 20
CODES = {"too_large": "request_too_large", "too_slow": "request_timeout"}
BYTES_PER_TOKEN = 4
OUTPUT_TOKENS = 256
"""Of a request that names no limit, until it is known."""
MAX_COST = 1 << 24
"""Whatever a request says: no model has so long a context."""

_PLACE = re.compile(r" - at `\$\.?(?P<path>[^`]*)`$")
_MISSING = re.compile(r"required field `(?P<name>[^`]*)`")


class Head(msgspec.Struct):
    """The fields that decide where a request goes and what it may cost; its pods check all of them."""

    model: str | None = None
    stream: bool | None = None
    n: int | None = None
    max_tokens: int | None = None
    max_completion_tokens: int | None = None
    max_output_tokens: int | None = None
    context_id: str | None = None
    priority: int | None = None

    def cost(self, body_bytes: int) -> int:
        """Tokens, as far as can be told before they are counted."""
        given = (self.max_completion_tokens, self.max_tokens, self.max_output_tokens)
        most = next((limit for limit in given if limit is not None), OUTPUT_TOKENS)
        return min(MAX_COST, body_bytes // BYTES_PER_TOKEN + max(1, most) * max(1, self.n or 1))


class Sampling(msgspec.Struct):
    """Options of completions and chats whose bounds are the same for all models."""

    n: int | None = None
    temperature: float | None = None
    top_p: float | None = None
    top_k: int | None = None
    min_p: float | None = None
    min_tokens: int | None = None
    presence_penalty: float | None = None
    frequency_penalty: float | None = None
    repetition_penalty: float | None = None


async def read_body(request: Request) -> bytes:
    """Raises Fault 413 or 408."""
    try:
        return await slow_body.read_body(request, MAX_BODY_BYTES, BODY_PATIENCE_S)
    except slow_body.BodyRefused as refused:
        # The rest of the body is not read, so the connection cannot serve another request.
        headers = {"connection": "close"}
        raise Fault(refused.status, refused.text, code=CODES[refused.code], headers=headers) from None


def read_head(body: bytes) -> Head:
    """Raises Fault 400 that names the field."""
    return decode(body, Head)


def check_sampling(body: bytes) -> None:
    """What can be told without the model is refused before any pod is started for it; its pods check all options.
    Raises Fault 400 that names the field."""
    given = decode(body, Sampling)
    for name in Sampling.__struct_fields__:
        value = getattr(given, name)
        if value is not None and (rule := out_of_bounds(name, value)):
            raise invalid(f"{name} {rule}, got {value!r}", name)


def decode(body: bytes, kind: type[T]) -> T:
    """Raises Fault 400 that names the field, for whatever bytes."""
    try:
        if not body.isascii():
            body.decode()  # msgspec passes over strings in fields that it does not know
        return msgspec.json.decode(body, type=kind)
    except msgspec.ValidationError as error:
        raise invalid(str(error), _param(str(error))) from None
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        if found := lone_surrogate_in_json(body):
            raise invalid(str(found), found.place or None) from None
        raise invalid(f"the body is not JSON: {error}") from None
    except RecursionError:
        raise invalid("the body is nested too deeply") from None


def _param(text: str) -> str | None:
    """`ttl` of "Expected `float`, got `str` - at `$.ttl`", and of "Object missing required field `ttl`"."""
    place, missing = _PLACE.search(text), _MISSING.search(text)
    return ".".join(part for part in (place and place["path"], missing and missing["name"]) if part) or None
