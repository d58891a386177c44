"""The HTTP port of `deepserve up`: deployed functions for callers that speak JSON."""

from __future__ import annotations

import asyncio
import contextlib
import json
import secrets
import socket
import ssl
from collections.abc import Callable, Iterator
from typing import Any

import msgspec
import uvicorn
from starlette.applications import Starlette
from starlette.requests import ClientDisconnect
from starlette.requests import Request as HttpRequest
from starlette.responses import JSONResponse, Response
from starlette.routing import Mount, Route, WebSocketRoute
from starlette.types import ASGIApp

from deepserve.protocol.framing import MAX_NESTING, Buffer, nesting
from deepserve.protocol.messages import Message, OpenRequest, RequestFinished, Value
from deepserve_controller.errors import QueryError
from deepserve_controller.service.bearer import HOW_TO_BRING_THE_KEY, Bearer
from deepserve_controller.service.connection import BODY_PATIENCE_S, PortConnection, error_of
from deepserve_controller.service.deployments import Deployments
from deepserve_controller.service.queries import Queries
from deepserve_controller.service.recipients import Recipients
from deepserve_controller.service.requests import Requests
from deepserve_controller.service.segments import Segments
from deepserve_controller.service.web_link import MAX_MESSAGE_BYTES, LinkEndpoint
from deepserve_http.body import BodyRefused, read_body

MAX_BODY_BYTES = 1 << 20
PING_INTERVAL_S = 20.0
PING_TIMEOUT_S = 60.0
"""A client whose code holds the interpreter for a while is not gone yet."""
LINK_ID = "http"
STATUS_OF_OUTCOME = {
    "ok": 200,
    "refused": 422,
    "error": 500,
    "startup_failed": 500,
    "pod_lost": 502,
    "cancelled": 499,
    "timeout": 504,
}
HEADERS_OF_STATUS = {401: {"www-authenticate": "Bearer"}, 408: {"connection": "close"}}
STATUS_OF_QUERY = {"not_found": 404, "invalid": 400, "failed": 500}


class HttpError(Exception):
    def __init__(self, status: int, code: str, text: str) -> None:
        super().__init__(text)
        self.status, self.code, self.text = status, code, text


class HttpCaller:
    """The link of all HTTP calls: an outcome that comes back resolves the waiting call."""

    def __init__(self, requests: Requests, segments: Segments) -> None:
        self._requests = requests
        self._segments = segments
        self._waiting: dict[str, asyncio.Future[tuple[RequestFinished, bytes]]] = {}

    def send(self, message: Message, payload: Buffer = b"") -> None:
        if isinstance(message, RequestFinished):
            future = self._waiting.get(message.request_id)
            if future is not None and not future.done():
                future.set_result((message, bytes(payload)))
            else:
                self._segments.remove(message.value.segment)

    async def call(self, function_id: str, arguments: dict[str, Any]) -> tuple[RequestFinished, bytes]:
        """A caller that goes away cancels its request."""
        data = encode_arguments(arguments)
        request_id = f"rq-http-{secrets.token_hex(6)}"
        future: asyncio.Future[tuple[RequestFinished, bytes]] = asyncio.get_running_loop().create_future()
        self._waiting[request_id] = future
        try:
            value = Value("msgpack", len(data))
            self._requests.open(LINK_ID, OpenRequest(request_id, function_id, value=value), data)
            return await future
        except asyncio.CancelledError:
            self._requests.cancel(request_id, force=False)
            if future.done() and not future.cancelled():
                self._segments.remove(future.result()[0].value.segment)
            raise
        finally:
            del self._waiting[request_id]


class HttpApp:
    def __init__(
        self,
        bearer: Bearer,
        queries: Queries,
        deployments: Deployments,
        requests: Requests,
        recipients: Recipients,
        segments: Segments,
        link_endpoint: LinkEndpoint,
        openai: ASGIApp,
    ) -> None:
        self._bearer = bearer
        self._queries = queries
        self._deployments = deployments
        self._segments = segments
        self._caller = HttpCaller(requests, segments)
        recipients.add(LINK_ID, self._caller)
        routes = [
            Route("/health", self._health),
            Route("/api/status", self._guarded(self._status)),
            Route("/api/apps", self._guarded(self._apps)),
            Route("/api/call/{app}/{function:path}", self._guarded(self._call), methods=["POST"]),
            WebSocketRoute("/v1/link", link_endpoint.take),
            Mount("/v1", app=openai),
        ]
        self.asgi = Starlette(routes=routes)

    async def _health(self, request: HttpRequest) -> Response:
        return JSONResponse({"ok": True})

    async def _status(self, request: HttpRequest) -> Response:
        return JSONResponse(self._queries.answer(LINK_ID, "status", {}))

    async def _apps(self, request: HttpRequest) -> Response:
        return JSONResponse(self._queries.answer(LINK_ID, "apps", {}))

    async def _call(self, request: HttpRequest) -> Response:
        function_id, _ = self._deployments.lookup(request.path_params["app"], request.path_params["function"])
        arguments = parse_arguments(await read_body(request, MAX_BODY_BYTES, BODY_PATIENCE_S))
        finished, data = await self._call_while_connected(request, function_id, arguments)
        if finished.outcome.is_ok:
            result = decode_result(finished.value, data or self._segments.take(finished.value))
            body = encode_answer({"result": result, **_where(finished)})
            return Response(body, media_type="application/json")
        status = STATUS_OF_OUTCOME.get(finished.outcome.kind, 500)
        return error_response(status, finished.outcome.kind, finished.outcome.detail, **_where(finished))

    async def _call_while_connected(
        self, request: HttpRequest, function_id: str, arguments: dict[str, Any]
    ) -> tuple[RequestFinished, bytes]:
        call = asyncio.ensure_future(self._caller.call(function_id, arguments))
        gone = asyncio.ensure_future(_disconnected(request))
        try:
            await asyncio.wait({call, gone}, return_when=asyncio.FIRST_COMPLETED)
            if not call.done():
                raise ClientDisconnect
            return call.result()
        finally:
            call.cancel()
            gone.cancel()

    def _guarded(self, answer: Callable[[HttpRequest], Any]) -> Callable[[HttpRequest], Any]:
        """The key is checked before a byte of the body is read."""

        async def guarded(request: HttpRequest) -> Response:
            try:
                if not self._bearer.is_brought_by(request):
                    raise HttpError(401, "unauthorized", HOW_TO_BRING_THE_KEY)
                response: Response = await answer(request)
                return response
            except (HttpError, BodyRefused) as error:
                return error_response(error.status, error.code, error.text)
            except QueryError as error:
                return error_response(STATUS_OF_QUERY[error.code], error.code, error.text)
            except ClientDisconnect:
                return Response(status_code=499)

        return guarded


def parse_arguments(body: bytes) -> dict[str, Any]:
    """`{"args": [...], "kwargs": {...}}`, or the keyword arguments themselves."""
    try:
        found = json.loads(body) if body.strip() else {}
    except (ValueError, RecursionError) as error:
        raise HttpError(400, "invalid", f"the body is no JSON: {error}") from None
    if not isinstance(found, dict):
        raise HttpError(400, "invalid", "the body must be a JSON object")
    if nesting(found) > MAX_NESTING:
        raise HttpError(400, "invalid", f"the body is nested deeper than {MAX_NESTING}")
    if not found or not set(found) <= {"args", "kwargs"}:
        return {"args": [], "kwargs": found}
    args, kwargs = found.get("args", []), found.get("kwargs", {})
    if not isinstance(args, list) or not isinstance(kwargs, dict):
        raise HttpError(400, "invalid", "args must be a list and kwargs an object")
    return {"args": args, "kwargs": kwargs}


def encode_arguments(arguments: dict[str, Any]) -> bytes:
    try:
        return msgspec.msgpack.encode(arguments)
    except (ValueError, OverflowError) as error:  # JSON knows larger integers, and half characters
        raise HttpError(400, "invalid", f"the arguments cannot be passed on: {error}") from None


def encode_answer(answer: dict[str, Any]) -> bytes:
    try:
        return msgspec.json.encode(answer)
    except (TypeError, ValueError) as error:
        raise HttpError(500, "failed", f"the result is no JSON: {error}") from None


def decode_result(value: Value, data: bytes) -> Any:
    if value.format == "none":
        return None
    if value.format != "msgpack":
        raise HttpError(500, "failed", f"the result came as {value.format}, not as plain values")
    try:
        return msgspec.msgpack.decode(data)
    except (msgspec.DecodeError, TypeError, ValueError) as error:
        raise HttpError(500, "failed", f"the result cannot be read: {error}") from None


def error_response(status: int, code: str, text: str, **more: Any) -> Response:
    headers = HEADERS_OF_STATUS.get(status)
    return JSONResponse(error_of(code, text) | more, status_code=status, headers=headers)


class HttpServer(uvicorn.Server):
    """Runs in the controller's loop; signals are the controller's."""

    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        yield


def listen_http(host: str, port: int) -> socket.socket:
    """Raises OSError."""
    family, kind, protocol, _, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0]
    listener = socket.socket(family, kind, protocol)
    try:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.bind(address)
        listener.listen(128)
    except BaseException:
        listener.close()
        raise
    listener.setblocking(False)
    return listener


LOG_CONFIG: dict[str, Any] = {
    "version": 1,
    "disable_existing_loggers": False,
    "formatters": {"dated": {"format": "%(asctime)s deepserve: HTTP port: %(message)s"}},
    "handlers": {"stderr": {"class": "logging.StreamHandler", "formatter": "dated", "stream": "ext://sys.stderr"}},
    "loggers": {"uvicorn": {"handlers": ["stderr"], "level": "WARNING", "propagate": False}},
}
"""What the server complains about (a peer that leaves in the middle of a handshake) says when, and what it is about."""


def make_server(app: ASGIApp, tls: ssl.SSLContext | None) -> HttpServer:
    config = uvicorn.Config(
        app,
        http=PortConnection,
        log_config=LOG_CONFIG,
        log_level="warning",
        access_log=False,
        lifespan="off",
        server_header=False,
        timeout_graceful_shutdown=1,
        ws=_websocket_protocol,  # type: ignore[arg-type]
        ws_max_size=MAX_MESSAGE_BYTES,
        ws_per_message_deflate=False,  # a few bytes must not become many
        ws_ping_interval=PING_INTERVAL_S,
        ws_ping_timeout=PING_TIMEOUT_S,
        ssl_context_factory=(lambda config, default: tls) if tls is not None else None,
    )
    return HttpServer(config)


def _websocket_protocol(**parts: Any) -> asyncio.Protocol:
    """Of a connection that is upgraded; imported with the first one."""
    from deepserve_controller.service.web_protocol import WebProtocol

    return WebProtocol(**parts)


async def _disconnected(request: HttpRequest) -> None:
    while (await request.receive())["type"] != "http.disconnect":
        pass


def _where(finished: RequestFinished) -> dict[str, Any]:
    timings = finished.timings
    return {
        "request_id": finished.request_id,
        "pod_id": timings.pod_id,
        "run_ms": timings.run_ms,
        "total_ms": timings.total_ms,
    }
