"""The OpenAI API over all hosted models: `/v1` of the controller's HTTP port."""

from __future__ import annotations

import time
from collections.abc import AsyncIterator, Awaitable, Callable

import msgspec
from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.middleware.cors import CORSMiddleware
from starlette.requests import ClientDisconnect, Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route
from starlette.types import ASGIApp

from deepserve.protocol.model_io import ContextInput
from deepserve.protocol.openai_io import EMBEDDING_METHOD, TOKEN_METHODS, OpenAIRequest
from deepserve_controller.core.admission_queue import Window
from deepserve_controller.core.cores import Cores
from deepserve_controller.policies.admission_window import admission_window
from deepserve_controller.service.bearer import Bearer
from deepserve_controller.service.openai.admission import Admission
from deepserve_controller.service.openai.api_keys import ROOT, ApiKeys
from deepserve_controller.service.openai.body import Head, check_sampling, read_body, read_head
from deepserve_controller.service.openai.contexts import card_of, check_owner, is_own, read_context, read_extension
from deepserve_controller.service.openai.exchange import REQUEST_ID, ROUTE, Exchange, Exchanges
from deepserve_controller.service.openai.fault import Fault, invalid
from deepserve_controller.service.openai.key_limits import RATE_HEADERS, KeyLimits
from deepserve_controller.service.openai.models import Hosted, HostedModels
from deepserve_controller.service.openai.openapi import openapi_document
from deepserve_controller.service.store import ApiKey
from deepserve_http.connected import CLOSED, EventStream, while_connected

JSON_TYPE = "application/json"
METHODS = ("GET", "POST", "DELETE")
EXPOSED = (REQUEST_ID, ROUTE, "retry-after", *RATE_HEADERS)
"""Headers that a page is shown."""
PATIENCE_S = 60.0
"""How long the reader of a stream may take nothing at all."""
SAMPLED_METHODS = ("openai.chat", "openai.completions")
HOW_TO_BRING_A_KEY = "send a key as `Authorization: Bearer <key>` (deepserve token new makes one)"
ANY_SCOPE = ""
"""Any valid key will do."""
UNKNOWN_KEY = "the key is not known here: it never was, or was revoked (deepserve token list shows those there are)"
Handler = Callable[[Request], Awaitable[Response]]


class Gateway:
    """`asgi` is the application, without the `/v1` that it is mounted at.

    bearer: the controller's own key, where it has one; it may do everything.
    """

    def __init__(
        self, bearer: Bearer | None, keys: ApiKeys, models: HostedModels, exchanges: Exchanges, cores: Cores
    ) -> None:
        self._bearer = bearer
        self._keys = keys
        self._models = models
        self._exchanges = exchanges
        self._cores = cores
        self._limits = KeyLimits()
        self._admissions: dict[str, Admission] = {}
        """By function id."""
        self._running: dict[str, set[Exchange]] = {}
        """By key id."""
        keys.on_revoked.append(self._revoked)
        routes = [
            Route("/models", self._guarded(ANY_SCOPE, self._list_models)),
            Route("/models/{name:path}", self._guarded(ANY_SCOPE, self._one_model)),
            Route("/chat/completions", self._answering("chat", "openai.chat"), methods=["POST"]),
            Route("/completions", self._answering("completions", "openai.completions"), methods=["POST"]),
            Route("/contexts", self._guarded("chat", self._list_contexts), methods=["GET"]),
            Route("/contexts", self._guarded("chat", self._make_context), methods=["POST"]),
            Route("/contexts/{context_id}", self._guarded("chat", self._one_context), methods=["GET"]),
            Route("/contexts/{context_id}", self._guarded("chat", self._extend_context), methods=["POST"]),
            Route("/contexts/{context_id}", self._guarded("chat", self._delete_context), methods=["DELETE"]),
            Route("/embeddings", self._answering("embeddings", EMBEDDING_METHOD), methods=["POST"]),
            Route("/responses", self._answering("responses", "openai.responses"), methods=["POST"]),
            Route("/tokenize", self._answering("tokenize", "openai.tokenize"), methods=["POST"]),
            Route("/detokenize", self._answering("tokenize", "openai.detokenize"), methods=["POST"]),
            Route("/openapi.json", self._document),
        ]
        handlers = {Fault: _answer_fault, HTTPException: _answer_http_error, ClientDisconnect: _answer_nobody}
        app = Starlette(routes=routes, exception_handlers=handlers)  # type: ignore[arg-type]
        # Pages in browsers may ask as well: what a key is needed for, no cookie gives to the page of a stranger.
        self.asgi: ASGIApp = CORSMiddleware(app, ("*",), METHODS, ("*",), expose_headers=EXPOSED)

    # --- who asks ---

    def _guarded(self, scope: str, answer: Callable[[Request, ApiKey], Awaitable[Response]]) -> Handler:
        """The key is checked before a byte of the body is read."""

        async def guarded(request: Request) -> Response:
            return await answer(request, self._key_of(request, scope))

        return guarded

    def _key_of(self, request: Request, scope: str) -> ApiKey:
        """Raises Fault."""
        scheme, _, rest = request.headers.get("authorization", "").partition(" ")
        secret = rest.strip() if scheme.lower() == "bearer" else ""
        if self._bearer is not None and self._bearer.is_brought_by(request):
            return ROOT
        key = self._keys.find(secret)
        if key is None:
            text = UNKNOWN_KEY if secret else HOW_TO_BRING_A_KEY
            raise Fault(401, text, code="invalid_api_key", headers={"www-authenticate": "Bearer"})
        if key.scopes and scope and scope not in key.scopes:
            raise Fault(403, f"the key {key.name!r} has no scope {scope!r}", code="insufficient_permissions")
        return key

    def _revoked(self, key_id: str) -> None:
        self._limits.forget(key_id)
        for exchange in self._running.get(key_id, ()):
            exchange.fail(_revoked_fault())

    # --- models ---

    async def _list_models(self, request: Request, key: ApiKey) -> Response:
        cards = [self._models.card(hosted) for hosted in self._models.of(key).values()]
        return JSONResponse({"object": "list", "data": cards})

    async def _one_model(self, request: Request, key: ApiKey) -> Response:
        return JSONResponse(self._models.card(self._models.find(key, request.path_params["name"])))

    async def _document(self, request: Request) -> Response:
        return JSONResponse(openapi_document())

    # --- answers ---

    def _answering(self, scope: str, method: str) -> Handler:
        async def answer(request: Request, key: ApiKey) -> Response:
            body = await read_body(request)
            head = read_head(body)
            hosted = self._models.find(key, head.model)
            if head.context_id and method != "openai.chat":
                raise invalid("only chats continue a context", "context_id")
            if head.context_id:
                check_owner(head.context_id, key)
            if method in SAMPLED_METHODS:
                check_sampling(body)
            return await self._answer(request, key, hosted, method, head, body)

        return self._guarded(scope, answer)

    async def _make_context(self, request: Request, key: ApiKey) -> Response:
        body = await read_body(request)
        head, context = read_head(body), read_context(body, key)
        hosted = self._models.find(key, head.model)
        # Its answer is no stream, and generates nothing.
        head = Head(head.model, max_tokens=1, context_id=context.context_id)
        return await self._answer(request, key, hosted, "cache", head, body, context)

    async def _list_contexts(self, request: Request, key: ApiKey) -> Response:
        infos = self._exchanges.about_contexts(lambda contexts: contexts.infos(self._labels(key)))
        data = [msgspec.to_builtins(card_of(info)) for info in infos if is_own(info.context_id, key)]
        return JSONResponse({"object": "list", "data": data})

    async def _one_context(self, request: Request, key: ApiKey) -> Response:
        return self._card(_context_id(request, key), key)

    async def _extend_context(self, request: Request, key: ApiKey) -> Response:
        context_id, ttl_s = _context_id(request, key), read_extension(await read_body(request))
        self._exchanges.about_contexts(lambda contexts: contexts.extend(context_id, ttl_s, self._labels(key)))
        return self._card(context_id, key)

    async def _delete_context(self, request: Request, key: ApiKey) -> Response:
        context_id = _context_id(request, key)
        self._exchanges.about_contexts(lambda contexts: contexts.delete(context_id, self._labels(key)))
        return JSONResponse({"id": context_id, "object": "context.deleted", "deleted": True})

    def _labels(self, key: ApiKey) -> set[str]:
        return {hosted.spec.label for hosted in self._models.of(key).values()}

    def _card(self, context_id: str, key: ApiKey, headers: dict[str, str] | None = None) -> Response:
        info = self._exchanges.about_contexts(lambda contexts: contexts.info(context_id, self._labels(key)))
        return JSONResponse(msgspec.to_builtins(card_of(info)), headers=headers)

    async def _answer(
        self,
        request: Request,
        key: ApiKey,
        hosted: Hosted,
        method: str,
        head: Head,
        body: bytes,
        context: ContextInput | None = None,
    ) -> Response:
        """Raises Fault while nothing is sent. Whatever runs ends when the client leaves. `context`: to be made."""
        cost = head.cost(len(body))
        left = self._limits.charge(key, cost, time.monotonic())
        admission = self._admission(hosted)
        turn: int | None = None
        try:
            turn = await while_connected(request.receive, admission.enter(key.key_id, cost, head.priority or 0))
        finally:
            if turn is None:
                self._limits.settle(key, cost, 0, time.monotonic())
        if turn is None:
            return Response(status_code=CLOSED)
        asked = context or OpenAIRequest(body, turn=turn)
        exchange = self._open(key, hosted, method, asked, head.context_id or "", admission, cost)

        def close() -> None:
            self._close(key, exchange, admission, cost)

        try:
            # The status must wait for the pods' word: afterwards an error could only be an event.
            first = await while_connected(request.receive, _whole(exchange) if not head.stream else exchange.next())
        except BaseException:
            close()
            raise
        if first is None:
            close()
            return Response(status_code=CLOSED)
        if head.stream:
            events = _events(first, exchange, is_typed=method == "openai.responses")
            return EventStream(events, close, PATIENCE_S, {**exchange.headers, **left})
        close()
        headers = {**exchange.headers, **left}
        if context is not None:
            return self._card(context.context_id, key, headers)
        return Response(first, headers=headers, media_type=JSON_TYPE)

    def _open(
        self,
        key: ApiKey,
        hosted: Hosted,
        method: str,
        asked: OpenAIRequest | ContextInput,
        context_id: str,
        admission: Admission,
        cost: int,
    ) -> Exchange:
        """Raises Fault."""
        function_id = hosted.spec.tokenizer if method in TOKEN_METHODS else hosted.function_id
        try:
            if key is not ROOT and not self._keys.is_valid(key):  # revoked while its request waited
                raise _revoked_fault()
            exchange = self._exchanges.open(function_id, method, asked, context_id)
        except BaseException:
            admission.leave(key.key_id, cost, 0)
            self._limits.settle(key, cost, 0, time.monotonic())
            raise
        self._running.setdefault(key.key_id, set()).add(exchange)
        return exchange

    def _close(self, key: ApiKey, exchange: Exchange, admission: Admission, cost: int) -> None:
        self._exchanges.close(exchange)
        running = self._running[key.key_id]
        running.discard(exchange)
        if not running:
            del self._running[key.key_id]
        usage = exchange.usage
        took = usage.prompt_tokens - usage.cached_tokens + usage.completion_tokens if usage is not None else cost
        admission.leave(key.key_id, cost, took)
        self._limits.settle(key, cost, took, time.monotonic())

    def _admission(self, hosted: Hosted) -> Admission:
        function_id = hosted.function_id
        found = self._admissions.get(function_id)
        if found is None:
            self._forget_removed()
            found = self._admissions[function_id] = Admission(lambda: self._window(function_id))
        return found

    def _forget_removed(self) -> None:
        view = self._cores.cluster_manager.function_view
        for function_id in [key for key, each in self._admissions.items() if each.is_idle and view(key) is None]:
            del self._admissions[function_id]

    def _window(self, function_id: str) -> Window:
        view = self._cores.cluster_manager.function_view(function_id)
        if view is None:  # removed: its requests are refused at once
            return Window(1 << 20, 1 << 20)
        room = self._cores.job_executor.room_of(function_id)
        return admission_window(*room, view.starting, view.max_pods)


def _context_id(request: Request, key: ApiKey) -> str:
    """Of the path. Raises Fault where it is another key's."""
    context_id: str = request.path_params["context_id"]
    check_owner(context_id, key)
    return context_id


async def _events(first: bytes, exchange: Exchange, is_typed: bool) -> AsyncIterator[bytes]:
    """`first`, and what comes after it. is_typed: they have types and numbers."""
    piece: bytes | None = first
    num_events = 0
    while piece is not None:
        yield piece
        num_events += piece.count(b"\n\n")
        exchange.written()
        try:
            piece = await exchange.next()
        except Fault as fault:
            yield fault.typed_event(num_events) if is_typed else fault.event()
            return


async def _whole(exchange: Exchange) -> bytes:
    """Raises Fault."""
    pieces: list[bytes] = []
    while (piece := await exchange.next()) is not None:
        pieces.append(piece)
        exchange.written()
    return b"".join(pieces)


def _revoked_fault() -> Fault:
    return Fault(401, "the key was revoked", code="invalid_api_key")


async def _answer_fault(request: Request, fault: Fault) -> Response:
    return Response(fault.body(), fault.status, fault.headers, JSON_TYPE)


async def _answer_http_error(request: Request, error: HTTPException) -> Response:
    """Starlette's own: no such path, wrong method."""
    fault = Fault(error.status_code, f"{request.method} {request.url.path}: {error.detail}", headers=error.headers)
    return await _answer_fault(request, fault)


async def _answer_nobody(request: Request, error: ClientDisconnect) -> Response:
    return Response(status_code=CLOSED)
