"""Exchange: one request to a hosted model, from the gateway's side; `Exchanges` is the link that all of them share."""

from __future__ import annotations

import asyncio
import secrets
from collections.abc import Callable
from typing import TypeVar

import msgspec

from deepserve.protocol.credit import Taken
from deepserve.protocol.framing import Buffer
from deepserve.protocol.messages import (
    GrantCredit,
    Message,
    OpenRequest,
    Outcome,
    RequestFinished,
    RequestKind,
    StreamItems,
    Value,
)
from deepserve.protocol.model_io import ContextInput
from deepserve.protocol.openai_io import OpenAIError, OpenAIRequest, OpenAIUsage
from deepserve_controller.errors import Refusal, StoreUnwritable
from deepserve_controller.service.contexts import ContextRefused, Contexts
from deepserve_controller.service.openai.fault import Fault
from deepserve_controller.service.requests import Requests
from deepserve_controller.service.segments import Segments

T = TypeVar("T")
LINK_ID = "openai"
CONTEXT_CODES = {"context": "context_not_found", "context_expired": "context_expired"}
REQUEST_ID = "x-request-id"
"""Header, as OpenAI has it: the request's id at the controller, by which its log and its timings are found."""
ROUTE = "x-deepserve-route"
"""Header: the pod that answers, and why that one."""
MAX_HEADER_CHARS = 256
STATUS_OF_OUTCOME = {"timeout": 504, "refused": 503, "cancelled": 503}


class Exchange:
    """Bytes as they come, with the room that their reader has for more; `close` cancels what is not over."""

    def __init__(self, request_id: str, requests: Requests) -> None:
        self.request_id = request_id
        self.usage: OpenAIUsage | None = None
        """Once the answer is whole."""
        self._requests = requests
        self._pieces: list[bytes] = []
        self._pieces_bytes = 0
        """What they took as items of the stream."""
        self._taken = Taken()
        self._is_over = False
        self._fault: Fault | None = None
        self._news = asyncio.Event()

    async def next(self) -> bytes | None:
        """What came since the last call, None at the end. Raises Fault."""
        while True:
            if self._fault is not None:
                raise self._fault
            if self._pieces:
                pieces, self._pieces = self._pieces, []
                self._taken.add(len(pieces), self._pieces_bytes)
                self._pieces_bytes = 0
                return b"".join(pieces)
            if self._is_over:
                return None
            await self._news.wait()
            self._news.clear()

    @property
    def headers(self) -> dict[str, str]:
        """Of the answer, once its first bytes are there."""
        route = self._requests.routes.text_of(self.request_id)
        headers = {REQUEST_ID: self.request_id}
        return {**headers, ROUTE: header_text(route)} if route else headers

    def written(self) -> None:
        """The client has taken what `next` gave: its pod may send as much again."""
        if not self._is_over and (grant := self._taken.take_grant()) is not None:
            self._requests.streams.grant(LINK_ID, GrantCredit(self.request_id, *grant))

    def fail(self, fault: Fault) -> None:
        """Whatever still comes: the client gets this."""
        if self._fault is None:
            self._fault = fault
            self._news.set()

    # --- from the controller ---

    def came(self, message: StreamItems, pieces: list[bytes]) -> None:
        if not pieces:
            return self.fail(_lost())
        self._pieces += pieces
        self._pieces_bytes += sum(value.size_bytes for value in message.values)
        self._news.set()

    def finished(self, message: RequestFinished, data: bytes) -> None:
        self._is_over = True
        try:
            if message.outcome.is_ok:
                self.usage = msgspec.msgpack.decode(data, type=OpenAIUsage)
            else:
                self.fail(_fault_of(message, data))
        except msgspec.DecodeError:  # its segment is gone, or could not be opened
            self.fail(_lost())
        self._news.set()

    @property
    def is_over(self) -> bool:
        return self._is_over


class Exchanges:
    """The link of all requests of the OpenAI API."""

    def __init__(self, requests: Requests, segments: Segments) -> None:
        self._requests = requests
        self._segments = segments
        self._open: dict[str, Exchange] = {}
        self._is_ending = False

    def end_all(self) -> None:
        """The controller ends: whoever waits for an answer is told so, and so is whoever still comes. What has come to
        its end is given to who has not read all of it yet."""
        self._is_ending = True
        for exchange in self._open.values():
            if not exchange.is_over:
                exchange.fail(_ending())

    def open(
        self, function_id: str, method: str, asked: OpenAIRequest | ContextInput, context_id: str = ""
    ) -> Exchange:
        """asked: of a context what it is made of. Raises Fault."""
        if self._is_ending:
            raise _ending()
        payload = msgspec.msgpack.encode(asked)
        request_id = f"rq-openai-{secrets.token_hex(8)}"
        exchange = self._open[request_id] = Exchange(request_id, self._requests)
        value = Value("msgpack", len(payload))
        kind: RequestKind = "stream" if isinstance(asked, OpenAIRequest) else "call"
        is_ahead = isinstance(asked, OpenAIRequest) and asked.turn < 0
        message = OpenRequest(
            request_id, function_id, kind, method, value=value, context_id=context_id, is_ahead=is_ahead
        )  # fmt: skip
        try:
            self._requests.open(LINK_ID, message, payload)
        except Refusal as refusal:
            del self._open[request_id]
            raise Fault(400, str(refusal)) from None
        return exchange

    def about_contexts(self, ask: Callable[[Contexts], T]) -> T:
        """Raises Fault."""
        try:
            return ask(self._requests.contexts)
        except ContextRefused as error:
            raise _context_fault(error.outcome) from None
        except StoreUnwritable as error:
            raise Fault(500, str(error), code="not_kept") from None

    def close(self, exchange: Exchange) -> None:
        """Nobody reads on."""
        if self._open.pop(exchange.request_id, None) is not None and not exchange.is_over:
            self._requests.cancel(exchange.request_id, force=False)

    def send(self, message: Message, payload: Buffer = b"") -> None:
        if isinstance(message, StreamItems):
            pieces = self._pieces(message, bytes(payload))
            if (exchange := self._open.get(message.request_id)) is not None:
                exchange.came(message, pieces)
        elif isinstance(message, RequestFinished):
            data = self._segments.take(message.value) if message.value.segment else bytes(payload)
            if (exchange := self._open.get(message.request_id)) is not None:
                exchange.finished(message, data)

    def _pieces(self, message: StreamItems, payload: bytes) -> list[bytes]:
        """All of them, or none where one is lost."""
        items, at = [], 0
        for value in message.values:
            if value.segment:
                items.append(self._segments.take(value))
            else:
                items.append(payload[at : at + value.size_bytes])
                at += value.size_bytes
        try:
            return [msgspec.msgpack.decode(item, type=bytes) for item in items]
        except msgspec.DecodeError:
            return []


def _ending() -> Fault:
    return Fault(503, "the server is going down", code="shutting_down", headers={"retry-after": "1"})


def _lost() -> Fault:
    return Fault(500, "a part of the answer was lost on its way", code="answer_lost")


def _fault_of(message: RequestFinished, data: bytes) -> Fault:
    outcome = message.outcome
    if outcome.kind == "error" and message.value.format == "msgpack":
        error = msgspec.msgpack.decode(data, type=OpenAIError)
        return Fault(error.status, outcome.detail, headers=error.headers, written=error.body)
    if outcome.code in CONTEXT_CODES:
        return _context_fault(outcome)
    kind, _, text = outcome.detail.partition(": ")
    if outcome.kind == "error" and kind in ("PromptTooLongError", "ModelError"):  # of making a context
        code = "context_length_exceeded" if kind == "PromptTooLongError" else None
        return Fault(400, text, code=code, param="messages")
    if outcome.kind == "startup_failed":
        return Fault(500, f"the model cannot be loaded: {outcome.detail}", code="model_load_failed")
    headers = {"retry-after": "1"} if outcome.kind == "refused" else None
    status = STATUS_OF_OUTCOME.get(outcome.kind, 500)
    return Fault(
        status, f"the request ended early ({outcome.kind}): {outcome.detail}", code=outcome.kind, headers=headers
    )


def _context_fault(outcome: Outcome) -> Fault:
    return Fault(404, outcome.detail, code=CONTEXT_CODES.get(outcome.code, outcome.code), param="context_id")


def header_text(text: str) -> str:
    """What a header may hold."""
    printable = "".join(char if char.isprintable() else " " for char in text)
    return printable.encode("ascii", "backslashreplace").decode()[:MAX_HEADER_CHARS]
