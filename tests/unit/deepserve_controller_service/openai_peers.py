"""A gateway without a controller: whoever tests it says what the pods answer."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping
from types import SimpleNamespace
from typing import Any, cast

import msgspec

from deepserve.protocol.messages import GrantCredit, OpenRequest, Outcome, RequestFinished, StreamItems, Timings, Value
from deepserve.protocol.openai_io import OpenAIError, OpenAIRequest, OpenAIUsage
from deepserve.protocol.specs import CodeRef, FunctionSpec, ModelSpec
from deepserve_controller.service.openai.api_keys import ApiKeys
from deepserve_controller.service.openai.exchange import LINK_ID, Exchanges
from deepserve_controller.service.openai.gateway import Gateway
from deepserve_controller.service.openai.models import HostedModels
from deepserve_controller.service.recipients import Recipients
from deepserve_controller.service.route_log import RouteLog
from deepserve_controller.service.store import NO_RECORDS
from deepserve_http.connection import ABORT

NONE: Mapping[str, str] = {}


class FakePods:
    """In place of Requests: takes requests, and sends what the test says to their link."""

    def __init__(self) -> None:
        self.opened: dict[str, OpenRequest] = {}
        self.bodies: dict[str, bytes] = {}
        self.turns: dict[str, int] = {}
        self.cancelled: list[str] = []
        self.granted: list[int] = []
        self.streams = self
        self.routes = RouteLog()
        self.link: Exchanges | None = None
        self.on_open: Callable[[str], None] = lambda request_id: None

    def open(self, link_id: str, message: OpenRequest, data: bytes) -> None:
        assert link_id == LINK_ID and message.kind == "stream" and message.value.size_bytes == len(data)
        self.opened[message.request_id] = message
        asked = msgspec.msgpack.decode(data, type=OpenAIRequest)
        self.bodies[message.request_id], self.turns[message.request_id] = asked.body, asked.turn
        asyncio.get_running_loop().call_soon(self.on_open, message.request_id)

    def cancel(self, request_id: str, force: bool) -> None:
        self.cancelled.append(request_id)

    def grant(self, link_id: str, message: GrantCredit) -> None:
        self.granted.append(message.items)

    # --- what pods say ---

    def items(self, request_id: str, *pieces: bytes) -> None:
        encoded = [msgspec.msgpack.encode(piece) for piece in pieces]
        values = tuple(Value("msgpack", len(piece)) for piece in encoded)
        assert self.link is not None
        self.link.send(StreamItems(request_id, 0, values), b"".join(encoded))

    def end(self, request_id: str, usage: OpenAIUsage = OpenAIUsage()) -> None:  # noqa: B008  (frozen)
        data = msgspec.msgpack.encode(usage)
        self._finish(request_id, Outcome("ok"), data)

    def refuse(self, request_id: str, status: int, body: bytes) -> None:
        self._finish(request_id, Outcome("error", "x"), msgspec.msgpack.encode(OpenAIError(status, body)))

    def lose(self, request_id: str) -> None:
        self._finish(request_id, Outcome("pod_lost", "signal 9"), b"")

    def _finish(self, request_id: str, outcome: Outcome, data: bytes) -> None:
        value = Value("msgpack", len(data)) if data else Value()
        assert self.link is not None
        self.link.send(RequestFinished(request_id, outcome, Timings(), value), data)


class Setup:
    """ready_slots: of the one model there is, `tiny`."""

    def __init__(self, ready_slots: int = 32) -> None:
        code = CodeRef("builtin", "", "")
        tiny = FunctionSpec("models", "tiny", "model", code, model=ModelSpec("tiny", "/x"), tokenizer="fn-tokenizer")
        self.pods = FakePods()
        self.recipients = Recipients()
        self.keys = ApiKeys(NO_RECORDS, self.recipients)
        self.slots = ready_slots
        self.exchanges = Exchanges(cast(Any, self.pods), cast(Any, None))
        self.pods.link = self.exchanges
        functions = cast(Any, SimpleNamespace(specs={"fn-tiny": tiny}, is_held=lambda function_id: True))
        cores = SimpleNamespace(
            cluster_manager=SimpleNamespace(function_view=lambda id: SimpleNamespace(starting=0, max_pods=1)),
            job_executor=SimpleNamespace(room_of=lambda id: (self.slots, 1)),
        )
        self.gateway = Gateway(None, self.keys, HostedModels(functions), self.exchanges, cast(Any, cores))
        self.secret = self.keys.new("all")[1]

    @property
    def num_waiting(self) -> int:
        """Requests that have not gone to the pods yet."""
        return sum(len(each._queue) for each in self.gateway._admissions.values())

    def check_nothing_left(self) -> None:
        assert not self.exchanges._open and not self.gateway._running
        assert not any(len(each._queue) or each._queue.num_admitted for each in self.gateway._admissions.values())


class Asked:
    """One HTTP request to an ASGI application, in this event loop; `reads` is cleared to stop reading.

    num_offered: pieces that were written or wait for that.
    """

    def __init__(
        self, app: Any, path: str, body: bytes | None, secret: str, method: str = "", headers: Mapping[str, str] = NONE
    ) -> None:
        self.status = 0
        self.headers: dict[str, str] = {}
        self.body = b""
        self.writes: list[bytes] = []
        self.num_offered = 0
        self.reads = asyncio.Event()
        self.reads.set()
        self.leaves = asyncio.Event()
        self.was_reset = False
        self._body = body
        self._was_sent = False
        scope = {
            "type": "http",
            "method": method or ("GET" if body is None else "POST"),
            "path": path,
            "raw_path": path.encode(),
            "query_string": b"",
            "root_path": "",
            "headers": [
                *([(b"authorization", f"Bearer {secret}".encode())] if secret else []),
                *((name.encode(), value.encode()) for name, value in headers.items()),
            ],
            "extensions": {ABORT: self._reset},
        }
        self.done = asyncio.ensure_future(app(scope, self._receive, self._send))

    async def _receive(self) -> dict[str, Any]:
        if not self._was_sent:
            self._was_sent = True
            return {"type": "http.request", "body": self._body or b""}
        await self.leaves.wait()
        return {"type": "http.disconnect"}

    async def _send(self, message: dict[str, Any]) -> None:
        if message["type"] == "http.response.start":
            self.status = message["status"]
            self.headers = {name.decode(): value.decode() for name, value in message["headers"]}
            return
        self.num_offered += 1
        await self.reads.wait()
        self.writes.append(message["body"])
        self.body += message["body"]

    def _reset(self) -> None:
        self.was_reset = True

    @property
    def error(self) -> dict[str, Any]:
        found: dict[str, Any] = msgspec.json.decode(self.body)["error"]
        return found
