"""/v1/models, and what is said of endpoints that are for other models."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence
from pathlib import Path
from typing import Any

from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from .api_error import ApiError
from .model_name import check_name

Handler = Callable[[Request], Awaitable[Response]]


def model_routes(names: Sequence[str], created: int, folder: Path, max_model_len: int) -> list[Route]:
    """`created`: Unix time in seconds."""

    def card(name: str) -> dict[str, Any]:
        return {
            "id": name,
            "object": "model",
            "created": created,
            "owned_by": "flowserve",
            "root": str(folder),
            "parent": None,
            "max_model_len": max_model_len,
        }

    async def models(request: Request) -> Response:
        return JSONResponse({"object": "list", "data": [card(name) for name in names]})

    async def one_model(request: Request) -> Response:
        return JSONResponse(card(check_name(request.path_params["name"], names)))

    return [Route("/v1/models", models), Route("/v1/models/{name:path}", one_model)]


def no_such_task(task: str) -> Handler:
    """For an endpoint that exists, but not for this server's model."""

    async def refuse(request: Request) -> Response:
        raise ApiError(404, f"the model of this server does no {task}", code="model_has_no_such_task")

    return refuse
