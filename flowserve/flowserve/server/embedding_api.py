"""The endpoints of an encoder: /v1/embeddings and tokens."""

from __future__ import annotations

import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route
from starlette.types import ASGIApp

from ..embedding_model import EmbeddingModel
from .api_error import JSON_TYPE, invalid
from .app import ServerConfig, build_asgi
from .beside_loop import beside_loop
from .body import decode_body, read_body
from .embedding_answer import MAX_INPUTS
from .embedding_loop import EmbeddingLoop
from .embedding_route import embedding_route
from .metrics import Metrics
from .model_name import check_name
from .model_routes import model_routes, no_such_task
from .requests import DetokenizeRequest, TokenizeRequest
from .token_answers import detokenized, tokenized


class EmbeddingApi:
    """`asgi` is the application; its lifespan starts and ends the encoder's thread."""

    def __init__(self, model: EmbeddingModel, folder: Path, config: ServerConfig | None = None) -> None:
        self.config = config or ServerConfig()
        self._names = self.config.names or (folder.resolve().name,)
        self.name = self._names[0]
        self._model = model
        metrics = Metrics(self.name, model.max_length)
        self.encoder = EmbeddingLoop(model, metrics, MAX_INPUTS + self.config.max_queue)
        routes = [
            *model_routes(self._names, int(time.time()), folder, model.max_length),
            embedding_route(self.encoder, self._names, folder, model.dimension, self.config.max_body_bytes),
            Route("/v1/completions", no_such_task("completions"), methods=["POST"]),
            Route("/v1/chat/completions", no_such_task("chats"), methods=["POST"]),
            Route("/v1/responses", no_such_task("responses"), methods=["POST"]),
            Route("/tokenize", self._tokenize, methods=["POST"]),
            Route("/detokenize", self._detokenize, methods=["POST"]),
        ]
        self.asgi: ASGIApp = build_asgi(
            routes, self._lifespan, metrics, lambda: self.encoder.is_alive, self.config.api_key
        )

    def end_all(self, reason: str) -> None:
        self.encoder.end_all(reason)

    @asynccontextmanager
    async def _lifespan(self, app: Starlette) -> AsyncIterator[None]:
        self.encoder.start()
        try:
            yield
        finally:
            await self.encoder.close()

    async def _tokenize(self, request: Request) -> Response:
        asked = decode_body(await read_body(request, self.config.max_body_bytes), TokenizeRequest)
        check_name(asked.model, self._names)
        if asked.prompt is None:
            raise invalid("prompt is missing", "prompt")
        tokenizer, special, with_texts = self._model.tokenizer, asked.add_special_tokens, bool(asked.return_token_strs)
        tokenizer.check_readable(asked.prompt, self._model.max_length)
        token_ids = await beside_loop(len(asked.prompt), tokenizer.encode, asked.prompt, special is not False)
        max_length = self._model.max_length
        body = await beside_loop(len(token_ids), tokenized, tokenizer, token_ids, max_length, with_texts)
        return Response(body, media_type=JSON_TYPE)

    async def _detokenize(self, request: Request) -> Response:
        asked = decode_body(await read_body(request, self.config.max_body_bytes), DetokenizeRequest)
        check_name(asked.model, self._names)
        tokenizer, max_length = self._model.tokenizer, self._model.max_length
        body = await beside_loop(len(asked.tokens), detokenized, tokenizer, asked.tokens, max_length)
        return Response(body, media_type=JSON_TYPE)
