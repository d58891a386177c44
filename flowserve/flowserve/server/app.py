"""The web application: routes, the key, and errors in OpenAI's shape."""

from __future__ import annotations

import hmac
import traceback
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from ..engine import Engine
from ..errors import FlowServeError
from .answering import respond
from .api_error import ApiError, as_api_error, invalid
from .body import decode_body, read_body
from .chat import Chat
from .chat_messages import functions_of, template_messages
from .completions import Completion
from .engine_loop import EngineLoop, LoopLimits
from .metrics import Metrics
from .requests import ChatRequest, CompletionRequest, DetokenizeRequest, TokenizeRequest
from .served_model import ServedModel

OPEN_PATHS = ("/health", "/version", "/metrics")
"""Need no key: they tell nothing of what is asked or answered."""


@dataclass(frozen=True)
class ServerConfig:
    """names: what clients may call the model; none = the folder's name.  api_key: None = everybody may ask.

    max_queue: completions that may wait beside those that run; more are refused with 503.
    max_body_bytes: of a request.  max_unsent: characters that a slow reader may leave behind before it is cut off.
    patience_s: how long a reader may take nothing at all.
    """

    names: tuple[str, ...] = ()
    api_key: str | None = field(default=None, repr=False)
    max_queue: int = 1024
    max_body_bytes: int = 32 << 20
    max_unsent: int = 1 << 20
    patience_s: float = 60.0


class Api:
    """The endpoints over one engine. `asgi` is the application; its lifespan starts and ends the engine's thread."""

    def __init__(self, engine: Engine, folder: Path, config: ServerConfig | None = None) -> None:
        self.config = config or ServerConfig()
        names = self.config.names or (folder.resolve().name,)
        self.model = ServedModel(folder, engine.tokenizer, names, engine.max_model_len)
        self.metrics = Metrics(names[0], engine.max_model_len)
        limits = LoopLimits(engine.config.max_num_sequences + self.config.max_queue, self.config.max_unsent)
        self.engine = EngineLoop(engine, self.metrics, limits)
        self.metrics.watch(lambda: self.engine.stats)
        routes = [
            Route("/v1/models", self._models),
            Route("/v1/models/{name:path}", self._one_model),
            Route("/v1/completions", self._completions, methods=["POST"]),
            Route("/v1/chat/completions", self._chat, methods=["POST"]),
            Route("/tokenize", self._tokenize, methods=["POST"]),
            Route("/detokenize", self._detokenize, methods=["POST"]),
            Route("/health", self._health),
            Route("/version", self._version),
            Route("/metrics", self._metrics),
        ]
        handlers: dict[Any, Any] = {
            ApiError: _answer_error,
            FlowServeError: _answer_error,
            RecursionError: _answer_error,
            HTTPException: _answer_http_error,
            Exception: _answer_error,
        }
        app = Starlette(routes=routes, lifespan=self._lifespan, exception_handlers=handlers)
        self.asgi: ASGIApp = _Gate(app, self.config.api_key, self.metrics, {route.path for route in routes})

    @asynccontextmanager
    async def _lifespan(self, app: Starlette) -> AsyncIterator[None]:
        self.engine.start()
        try:
            yield
        finally:
            await self.engine.close()

    # --- generation ------------------------------------------------------------------------------------

    async def _completions(self, request: Request) -> Response:
        body = await read_body(request, self.config.max_body_bytes)
        answer = Completion(decode_body(body, CompletionRequest), self.model)
        return await respond(answer, request, self.engine, self.config.patience_s)

    async def _chat(self, request: Request) -> Response:
        body = await read_body(request, self.config.max_body_bytes)
        answer = Chat(decode_body(body, ChatRequest), self.model)
        return await respond(answer, request, self.engine, self.config.patience_s)

    # --- what the model is -----------------------------------------------------------------------------

    async def _models(self, request: Request) -> Response:
        return JSONResponse({"object": "list", "data": [self._card(name) for name in self.model.names]})

    async def _one_model(self, request: Request) -> Response:
        return JSONResponse(self._card(self.model.check_name(request.path_params["name"])))

    def _card(self, name: str) -> dict[str, Any]:
        return {
            "id": name,
            "object": "model",
            "created": self.model.created,
            "owned_by": "flowserve",
            "root": str(self.model.folder),
            "parent": None,
            "max_model_len": self.model.max_model_len,
        }

    async def _tokenize(self, request: Request) -> Response:
        body = await read_body(request, self.config.max_body_bytes)
        asked = decode_body(body, TokenizeRequest)
        self.model.check_name(asked.model)
        if (asked.prompt is None) == (asked.messages is None):
            raise invalid("give either prompt or messages", "prompt")
        if asked.messages is not None:
            functions_of(asked.tools or [])
            variables = {**(asked.chat_template_kwargs or {}), "add_generation_prompt": asked.add_generation_prompt}
            text = self.model.render(template_messages(asked.messages), asked.tools, variables)
            token_ids = await self.model.encode(text, bool(asked.add_special_tokens))
        else:
            token_ids = await self.model.encode(asked.prompt or "", asked.add_special_tokens is not False)
        spelled = [self.model.tokenizer.token(token_id) for token_id in token_ids]
        return JSONResponse(
            {
                "count": len(token_ids),
                "max_model_len": self.model.max_model_len,
                "tokens": token_ids,
                "token_strs": spelled if asked.return_token_strs else None,
            }
        )

    async def _detokenize(self, request: Request) -> Response:
        body = await read_body(request, self.config.max_body_bytes)
        asked = decode_body(body, DetokenizeRequest)
        self.model.check_name(asked.model)
        unknown = [token_id for token_id in asked.tokens if self.model.tokenizer.token(token_id) is None]
        if unknown:
            raise invalid(f"{unknown[0]} is no token id of this model", "tokens")
        return JSONResponse({"prompt": self.model.tokenizer.decode(asked.tokens, skip_special_tokens=False)})

    # --- the server itself -----------------------------------------------------------------------------

    async def _health(self, request: Request) -> Response:
        return Response(status_code=200 if self.engine.is_alive else 503)

    async def _version(self, request: Request) -> Response:
        return JSONResponse({"version": _version()})

    async def _metrics(self, request: Request) -> Response:
        return Response(self.metrics.text(), media_type="text/plain; version=0.0.4")


class _Gate:
    """In front of all routes: asks for the key, counts the responses."""

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

        async def count(message: Message) -> None:
            if message["type"] == "http.response.start":
                self._metrics.http_response(path, message["status"])
            await send(message)

        if self._may_pass(scope):
            await self._app(scope, receive, count)
        else:
            text = "this server needs a key: Authorization: Bearer KEY"
            error = ApiError(401, text, code="invalid_api_key", headers={"www-authenticate": "Bearer"})
            await error.response()(scope, receive, count)

    def _may_pass(self, scope: Scope) -> bool:
        if self._expected is None or scope["path"] in OPEN_PATHS:
            return True
        given = next((value for name, value in scope["headers"] if name == b"authorization"), b"")
        return hmac.compare_digest(given, self._expected)


async def _answer_error(request: Request, error: Exception) -> Response:
    answer = as_api_error(error)
    if answer.status >= 500 and not isinstance(error, ApiError):
        traceback.print_exception(error)
    return answer.response()


async def _answer_http_error(request: Request, error: HTTPException) -> Response:
    """Starlette's own: no such path, wrong method."""
    text = f"{request.method} {request.url.path}: {error.detail}"
    return ApiError(error.status_code, text, headers=error.headers).response()


def _version() -> str:
    try:
        return version("deepserve")
    except PackageNotFoundError:
        return "0"
