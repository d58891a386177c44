"""Sleep and wake over HTTP, under vLLM's names: POST /sleep?level=, POST /wake_up, GET /is_sleeping."""

from __future__ import annotations

from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from .api_error import invalid
from .engine_loop import EngineLoop


def sleep_routes(loop: EngineLoop) -> list[Route]:
    """While the engine sleeps, requests that need it get status 503; while it has work, it does not sleep (409)."""

    async def sleep(request: Request) -> Response:
        level = request.query_params.get("level", "1")
        if level not in ("1", "2"):
            raise invalid(f"the level of sleep must be 1 or 2, got {level!r}", "level")

        await loop.call(lambda engine: engine.sleep(int(level)))
        return Response()

    async def wake_up(request: Request) -> Response:
        await loop.call(lambda engine: engine.wake())
        return Response()

    async def is_sleeping(request: Request) -> Response:
        return JSONResponse({"is_sleeping": loop.stats.sleep_level > 0})

    return [
        Route("/sleep", sleep, methods=["POST"]),
        Route("/wake_up", wake_up, methods=["POST"]),
        Route("/is_sleeping", is_sleeping),
    ]
