"""What every server has: its configuration, the key, errors in OpenAI's shape, health, version and metrics."""

from __future__ import annotations

import hmac
import re
import secrets
import traceback
from collections.abc import Callable, Sequence
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass, field
from typing import Any, Protocol

from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect, Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from deepserve_http.connected import CLOSED

from ..answer import AnswerFormat
from ..errors import FlowServeError, InvalidConfigError
from ..version import __version__
from .api_error import JSON_TYPE, ApiError, as_api_error
from .metrics import Metrics

REQUEST_ID = b"x-request-id"
"""Header of every answer: what the client sent under this name, else a fresh one."""
_REQUEST_ID = re.compile(rb"[!-~]{1,200}")

OPEN_PATHS = ("/health", "/version", "/metrics")
"""Need no key: they tell nothing of what is asked or answered."""


@dataclass(frozen=True)
class ServerConfig:
    """Raises InvalidConfigError naming the field.

    names: what clients may call the model; none = the folder's name.  api_key: None = everybody may ask.

    max_queue: completions that may wait beside those that run; more are refused with 503.
    max_body_bytes: of a request.  max_unsent: characters that a slow reader may leave behind before it is cut off.
    patience_s: how long a reader may take nothing at all.
    allow_sleep: whether clients may send the engine to sleep and wake it.
    call_format: a name of `tool_calls.FORMATS`.  reasoning: whether the model thinks between tags.  None of both: as
    the chat template shows.
    """

    names: tuple[str, ...] = ()
    api_key: str | None = field(default=None, repr=False)
    max_queue: int = 1024
    max_body_bytes: int = 32 << 20
    max_unsent: int = 1 << 20
    patience_s: float = 60.0
    allow_sleep: bool = False
    call_format: str | None = None
    reasoning: bool | None = None

    def __post_init__(self) -> None:
        if not all(self.names):
            raise InvalidConfigError("names must not hold an empty one: clients could not ask for it")
        # What a header can carry; an empty one would look like a key, and nobody could bring it.
        if self.api_key is not None and not re.fullmatch("[!-~]+", self.api_key):
            raise InvalidConfigError("api_key must be ASCII letters, digits and signs, without blanks, and not empty")
        if self.call_format is not None:
            AnswerFormat(self.call_format)


class Api(Protocol):
    """One model's endpoints. `name`: the first of what clients may call it."""

    name: str
    asgi: ASGIApp

    def end_all(self, reason: str) -> None:
        """Answer every request with an error now, and every later one."""
        ...


def build_asgi(
    routes: Sequence[Route],
    lifespan: Callable[[Starlette], AbstractAsyncContextManager[None]],
    metrics: Metrics,
    is_ready: Callable[[], bool],
    api_key: str | None,
) -> ASGIApp:
    """The application of these routes and those that every server has. is_ready: whether a request could be answered,
    which /health tells."""

    async def health(request: Request) -> Response:
        return Response(status_code=200 if is_ready() else 503)

    async def show_version(request: Request) -> Response:
        return JSONResponse({"version": __version__})

    async def show_metrics(request: Request) -> Response:
        return Response(metrics.text(), media_type="text/plain; version=0.0.4")

    common = [Route("/health", health), Route("/version", show_version), Route("/metrics", show_metrics)]
    handlers: dict[Any, Any] = {
        ApiError: _answer_error,
        FlowServeError: _answer_error,
        RecursionError: _answer_error,
        HTTPException: _answer_http_error,
        ClientDisconnect: _answer_nobody,
        Exception: _answer_error,
    }
    app = Starlette(routes=[*routes, *common], lifespan=lifespan, exception_handlers=handlers)
    return _Gate(app, api_key, metrics, {route.path for route in (*routes, *common)})


class _Gate:
    """In front of all routes: asks for the key, counts the responses and gives each its id."""

    def __init__(self, app: ASGIApp, api_key: str | None, metrics: Metrics, paths: set[str]) -> None:
        self._app = app
        self._expected = f"Bearer {api_key}".encode() if api_key is not None else None
        self._metrics = metrics
        self._paths = paths

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        path = scope["path"] if scope["path"] in self._paths else "other"
        request_id = _header(scope, REQUEST_ID)
        if _REQUEST_ID.fullmatch(request_id) is None:
            request_id = secrets.token_hex(16).encode()

        async def count(message: Message) -> None:
            if message["type"] == "http.response.start":
                self._metrics.http_response(path, message["status"])
                message = {**message, "headers": [*message.get("headers", ()), (REQUEST_ID, request_id)]}
            await send(message)

        if self._may_pass(scope):
            await self._app(scope, receive, count)
        else:
            text = "this server needs a key: Authorization: Bearer KEY"
            error = ApiError(401, text, code="invalid_api_key", headers={"www-authenticate": "Bearer"})
            await _response(error)(scope, receive, count)

    def _may_pass(self, scope: Scope) -> bool:
        if self._expected is None or scope["path"] in OPEN_PATHS:
            return True
        return hmac.compare_digest(_header(scope, b"authorization"), self._expected)


def _header(scope: Scope, name: bytes) -> bytes:
    """Empty where it was not sent."""
    return next((value for each, value in scope["headers"] if each == name), b"")


async def _answer_error(request: Request, error: Exception) -> Response:
    answer = as_api_error(error)
    if answer.status >= 500 and not isinstance(error, ApiError):
        traceback.print_exception(error)
    return _response(answer)


async def _answer_nobody(request: Request, error: Exception) -> Response:
    """The client left while its request was read."""
    return Response(status_code=CLOSED)


async def _answer_http_error(request: Request, error: HTTPException) -> Response:
    """Starlette's own: no such path, wrong method."""
    text = f"{request.method} {request.url.path}: {error.detail}"
    return _response(ApiError(error.status_code, text, headers=error.headers))


def _response(error: ApiError) -> Response:
    return Response(error.body(), error.status, error.headers, JSON_TYPE)
