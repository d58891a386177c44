"""The endpoints of a model that generates, over one engine."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import TypeVar

import msgspec
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route
from starlette.types import ASGIApp

from ..engine import Engine
from .answering import Answer
from .api_error import JSON_TYPE
from .app import ServerConfig, build_asgi
from .beside_loop import beside_loop
from .body import decode_body, read_body
from .chat import Chat
from .completions import Completion
from .embedding_answer import MAX_INPUTS
from .embedding_route import embedding_route
from .engine_embedder import EngineEmbedder
from .engine_loop import EngineLoop, LoopLimits
from .metrics import Metrics
from .model_routes import model_routes
from .requests import ChatRequest, CompletionRequest, DetokenizeRequest, TokenizeRequest
from .responding import encoded, respond
from .response_request import ResponseRequest
from .responses import ModelResponse
from .served_model import ServedModel
from .sleep_routes import sleep_routes
from .token_answers import detokenized, prompt_to_tokenize, tokenized

T = TypeVar("T", bound=msgspec.Struct)


class GenerationApi:
    """`asgi` is the application; its lifespan starts and ends the engine's thread."""

    def __init__(self, engine: Engine, folder: Path, config: ServerConfig | None = None) -> None:
        """Raises InvalidConfigError."""
        self.config = config or ServerConfig()
        names = self.config.names or (folder.resolve().name,)
        self.name = names[0]
        formats = (self.config.call_format, self.config.reasoning)
        self.model = ServedModel(folder, engine.tokenizer, names, engine.max_model_len, *formats)
        metrics = Metrics(self.name, engine.max_model_len)
        limits = LoopLimits(engine.config.max_num_sequences + self.config.max_queue, self.config.max_unsent)
        self.engine = EngineLoop(engine, metrics, limits)
        embedder = EngineEmbedder(self.engine, engine, metrics, MAX_INPUTS + self.config.max_queue)
        metrics.watch(lambda: self.engine.stats)
        routes = [
            *model_routes(self.model.names, self.model.created, folder, engine.max_model_len),
            Route("/v1/completions", self._completions, methods=["POST"]),
            Route("/v1/chat/completions", self._chat, methods=["POST"]),
            Route("/v1/responses", self._responses, methods=["POST"]),
            embedding_route(embedder, names, folder, engine.model_config.hidden_size, self.config.max_body_bytes),
            Route("/tokenize", self._tokenize, methods=["POST"]),
            Route("/detokenize", self._detokenize, methods=["POST"]),
            *(sleep_routes(self.engine) if self.config.allow_sleep else []),
        ]
        self.asgi: ASGIApp = build_asgi(
            routes, self._lifespan, metrics, lambda: self.engine.is_ready, self.config.api_key
        )

    def end_all(self, reason: str) -> None:
        self.engine.end_all(reason)

    @asynccontextmanager
    async def _lifespan(self, app: Starlette) -> AsyncIterator[None]:
        self.engine.start()
        try:
            yield
        finally:
            await self.engine.close()

    # --- generation ------------------------------------------------------------------------------------

    async def _completions(self, request: Request) -> Response:
        return await self._answer(request, CompletionRequest, Completion)

    async def _chat(self, request: Request) -> Response:
        return await self._answer(request, ChatRequest, Chat)

    async def _responses(self, request: Request) -> Response:
        return await self._answer(request, ResponseRequest, ModelResponse)

    async def _answer(self, request: Request, kind: type[T], make: Callable[[T, ServedModel], Answer]) -> Response:
        body = await read_body(request, self.config.max_body_bytes)
        answer = await beside_loop(len(body), lambda: make(decode_body(body, kind), self.model))
        return await respond(answer, len(body), request, self.model, self.engine, self.config.patience_s)

    # --- tokens ----------------------------------------------------------------------------------------

    async def _tokenize(self, request: Request) -> Response:
        body = await read_body(request, self.config.max_body_bytes)
        asked = decode_body(body, TokenizeRequest)
        text = await beside_loop(len(body), prompt_to_tokenize, asked, self.model)
        prompt = await encoded(self.model, text, False)
        ids, limit, with_texts = prompt.token_ids or [], self.model.max_model_len, bool(asked.return_token_strs)
        answer = await beside_loop(len(ids), tokenized, self.model.tokenizer, ids, limit, with_texts)
        return Response(answer, media_type=JSON_TYPE)

    async def _detokenize(self, request: Request) -> Response:
        body = await read_body(request, self.config.max_body_bytes)
        asked = decode_body(body, DetokenizeRequest)
        self.model.check_name(asked.model)
        tokenizer, limit = self.model.tokenizer, self.model.max_model_len
        answer = await beside_loop(len(asked.tokens), detokenized, tokenizer, asked.tokens, limit)
        return Response(answer, media_type=JSON_TYPE)
