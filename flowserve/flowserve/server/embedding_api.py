"""The endpoints of an encoder: /v1/embeddings and tokens."""

from __future__ import annotations

import base64
import json
import math
import sys
import time
from array import array
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import msgspec
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
from .chunks import encode
from .connected import CLOSED, while_connected
from .embedding_loop import EmbeddingLoop
from .metrics import Metrics
from .model_name import check_name
from .model_routes import model_routes, no_such_task
from .requests import DetokenizeRequest, EmbeddingRequest, TokenizeRequest, listed_prompts
from .token_answers import detokenized, tokenized

MAX_INPUTS = 2048


class EmbeddingUsage(msgspec.Struct):
    prompt_tokens: int
    total_tokens: int


class Embedding(msgspec.Struct):
    object: str
    index: int
    embedding: list[float] | str


class EmbeddingBody(msgspec.Struct):
    object: str
    data: list[Embedding]
    model: str
    usage: EmbeddingUsage


class EmbeddingApi:
    """`asgi` is the application; its lifespan starts and ends the encoder's thread."""

    def __init__(self, model: EmbeddingModel, folder: Path, config: ServerConfig | None = None) -> None:
        self.config = config or ServerConfig()
        self._names = self.config.names or (folder.resolve().name,)
        self.name = self._names[0]
        self._model = model
        self._may_be_cut = _is_matryoshka(folder)
        metrics = Metrics(self.name, model.max_length)
        self.encoder = EmbeddingLoop(model, metrics, MAX_INPUTS + self.config.max_queue)
        routes = [
            *model_routes(self._names, int(time.time()), folder, model.max_length),
            Route("/v1/embeddings", self._embeddings, methods=["POST"]),
            Route("/v1/completions", no_such_task("completions"), methods=["POST"]),
            Route("/v1/chat/completions", no_such_task("chats"), methods=["POST"]),
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

    async def _embeddings(self, request: Request) -> Response:
        asked = decode_body(await read_body(request, self.config.max_body_bytes), EmbeddingRequest)
        name = check_name(asked.model, self._names)
        inputs = listed_prompts(asked.input, "input")
        if len(inputs) > MAX_INPUTS:
            raise invalid(f"{len(inputs)} inputs are more than {MAX_INPUTS}", "input")
        if asked.truncate_prompt_tokens not in (None, -1):
            raise invalid(
                "truncate_prompt_tokens must be -1, the length that the model takes", "truncate_prompt_tokens"
            )
        dimensions = self._dimensions(asked.dimensions)
        work = self.encoder.embed(inputs, asked.truncate_prompt_tokens == -1)
        answer = await while_connected(request.receive, work)
        if answer is None:
            return Response(status_code=CLOSED)
        vectors, num_tokens = answer
        data = [
            Embedding("embedding", index, _spelled(_cut(vector, dimensions), asked.encoding_format or "float"))
            for index, vector in enumerate(vectors)
        ]
        body = EmbeddingBody("list", data, name, EmbeddingUsage(num_tokens, num_tokens))
        return Response(encode(body), media_type=JSON_TYPE)

    async def _tokenize(self, request: Request) -> Response:
        asked = decode_body(await read_body(request, self.config.max_body_bytes), TokenizeRequest)
        check_name(asked.model, self._names)
        if asked.prompt is None:
            raise invalid("prompt is missing", "prompt")
        tokenizer, special, with_texts = self._model.tokenizer, asked.add_special_tokens, bool(asked.return_token_strs)
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

    def _dimensions(self, asked: int | None) -> int:
        """Raises ApiError where a shorter vector would mean nothing."""
        own = self._model.dimension
        if asked is None or asked == own:
            return own
        if not self._may_be_cut:
            raise invalid(f"the model gives {own} dimensions and was not trained to give fewer", "dimensions")
        if not 1 <= asked <= own:
            raise invalid(f"dimensions must be 1 to {own}, got {asked}", "dimensions")
        return asked


def _is_matryoshka(folder: Path) -> bool:
    """Whether the start of a vector is a vector too, as config.json says."""
    config = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    return bool(config.get("is_matryoshka") or config.get("matryoshka_dimensions"))


def _cut(vector: list[float], dimensions: int) -> list[float]:
    """The first `dimensions`, of length 1 again."""
    if dimensions == len(vector):
        return vector
    start = vector[:dimensions]
    length = math.sqrt(sum(value * value for value in start)) or 1.0
    return [value / length for value in start]


def _spelled(vector: list[float], encoding_format: str) -> list[float] | str:
    """base64: of float32, lowest byte first."""
    if encoding_format == "float":
        return vector
    numbers = array("f", vector)
    if sys.byteorder == "big":
        numbers.byteswap()
    return base64.b64encode(numbers.tobytes()).decode()
