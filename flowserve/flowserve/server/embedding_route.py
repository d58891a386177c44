"""POST /v1/embeddings, whatever computes the vectors."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Protocol

from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from deepserve_http.connected import CLOSED, while_connected

from .api_error import JSON_TYPE, RequestFields, as_api_error
from .beside_loop import beside_loop
from .body import decode_body, read_body
from .embedding_answer import EmbeddingAnswer
from .requests import EmbeddingRequest


class Embedder(Protocol):
    async def embed(self, texts: Sequence[str | Sequence[int]], truncate: bool) -> tuple[list[list[float]], int]:
        """A vector for each text, and the tokens of all."""
        ...


def embedding_route(
    embedder: Embedder, names: Sequence[str], folder: Path, dimension: int, max_body_bytes: int
) -> Route:
    """dimension: of the vectors."""

    async def embeddings(request: Request) -> Response:
        body = await read_body(request, max_body_bytes)
        answer = await beside_loop(
            len(body), lambda: EmbeddingAnswer(decode_body(body, EmbeddingRequest), names, folder, dimension)
        )
        try:
            found = await while_connected(request.receive, embedder.embed(answer.inputs, answer.truncate))
        except Exception as error:
            raise as_api_error(error, RequestFields("input")) from error
        if found is None:
            return Response(status_code=CLOSED)
        vectors, num_tokens = found
        content = await beside_loop(len(vectors) * dimension, answer.body, vectors, num_tokens)
        return Response(content, media_type=JSON_TYPE)

    return Route("/v1/embeddings", embeddings, methods=["POST"])
