"""What a client may say, over its own link or from inside a pod over the pod's."""

from __future__ import annotations

import sys
import traceback
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, Protocol

from deepserve.protocol.framing import FrameError
from deepserve.protocol.map_messages import MapInputs
from deepserve.protocol.messages import (
    Answer,
    AttachRequest,
    CancelRequest,
    DefineFunction,
    DeleteRef,
    ForgetRequest,
    GrantCredit,
    Hello,
    HoldRefs,
    LeaveStream,
    MapEnd,
    MapInput,
    Message,
    OpenRequest,
    PutBundle,
    Query,
    ReleaseRefs,
    RetireFunction,
    StoreRef,
)
from deepserve_controller.errors import QueryError, Refusal
from deepserve_controller.service.bundles import Bundle, Bundles
from deepserve_controller.service.functions import Functions
from deepserve_controller.service.logs import Logs
from deepserve_controller.service.recipients import Connection, Recipient, Recipients
from deepserve_controller.service.requests import Requests

if TYPE_CHECKING:
    from deepserve_controller.service.map_relay import MapRelay


class QueryDesk(Protocol):
    def answer(self, link_id: str, name: str, body: dict[str, Any]) -> dict[str, Any]:
        """Raises QueryError."""


class ClientMessages:
    """Turns clients' messages into events; one object serves all links."""

    def __init__(
        self, requests: Requests, maps: MapRelay, functions: Functions, bundles: Bundles, queries: QueryDesk
    ) -> None:
        self._queries = queries
        self._takers: dict[type[Message], Callable[[str, Recipient, Any, bytes], None]] = {
            OpenRequest: lambda link_id, link, message, data: requests.open(link_id, message, data),
            MapInput: lambda link_id, link, message, data: requests.map_input(message, data),
            MapInputs: lambda link_id, link, message, data: maps.inputs(message, data),
            MapEnd: lambda link_id, link, message, data: requests.map_end(message),
            GrantCredit: lambda link_id, link, message, data: requests.streams.grant(link_id, message),
            LeaveStream: lambda link_id, link, message, data: requests.streams.leave(link_id, message),
            CancelRequest: lambda link_id, link, message, data: requests.cancel(message.request_id, message.force),
            AttachRequest: lambda link_id, link, message, data: requests.attach(link_id, message),
            ForgetRequest: lambda link_id, link, message, data: requests.forget(message.request_id),
            PutBundle: lambda link_id, link, message, data: bundles.put(message.digest, Bundle(message.kind, data)),
            DefineFunction: lambda link_id, link, message, data: functions.define(
                link_id, message.function_id, message.spec, is_found=message.is_found
            ),
            RetireFunction: lambda link_id, link, message, data: functions.retire(link_id, message.function_id),
            StoreRef: lambda link_id, link, message, data: requests.store_ref(link_id, message),
            HoldRefs: lambda link_id, link, message, data: requests.refs.hold(link_id, message),
            ReleaseRefs: lambda link_id, link, message, data: requests.refs.release(link_id, message),
            DeleteRef: lambda link_id, link, message, data: requests.refs.delete(message),
            Query: self._answer,
        }

    def take(self, link_id: str, link: Recipient, message: Message, data: bytes) -> bool:
        """False where it is nothing that a client says."""
        taker = self._takers.get(type(message))
        if taker is None:
            return False
        taker(link_id, link, message, data)
        return True

    def _answer(self, link_id: str, link: Recipient, query: Query, data: bytes) -> None:
        try:
            answer = Answer(query.query_id, self._queries.answer(link_id, query.name, query.body))
        except QueryError as error:
            answer = Answer(query.query_id, error=error.code, text=error.text)
        except Exception as error:
            # The database's errors, or a defect: whoever asked hears of it, and the link goes on.
            traceback.print_exc(file=sys.stderr)
            answer = Answer(
                query.query_id, error="failed", text=f"{query.name}: {type(error).__name__}: {error}"[:4000]
            )
        try:
            link.send(answer)
        except FrameError as error:
            link.send(Answer(query.query_id, error="failed", text=f"the answer does not fit: {error}"))


class ClientLink:
    """Handler of one client's connection."""

    def __init__(
        self,
        link_id: str,
        link: Connection,
        hello: Hello,
        messages: ClientMessages,
        recipients: Recipients,
        requests: Requests,
        functions: Functions,
        logs: Logs,
    ) -> None:
        self.link_id = link_id
        self._link = link
        self._hello = hello
        self._messages = messages
        self._recipients = recipients
        self._requests = requests
        self._functions = functions
        self._logs = logs
        recipients.add(link_id, link)
        requests.link_opened(hello.pid)
        logs.add_reader(link_id, link)

    def frame_received(self, message: Message, payload: bytes) -> None:
        if not self._messages.take(self.link_id, self._link, message, payload):
            raise Refusal("garbage", f"{type(message).__name__} is not for a client to say")

    def link_closed(self) -> None:
        self._logs.remove_reader(self.link_id)
        self._recipients.remove(self.link_id)
        self._requests.link_closed(self.link_id, self._hello.pid)
        self._functions.release_all(self.link_id)
