"""What completions and chats have in common: sequences into the engine, one body or a stream of events out."""

from __future__ import annotations

import traceback
from collections.abc import AsyncIterator
from typing import Protocol

from starlette.requests import Request
from starlette.responses import Response

from ..errors import InvalidRequestError
from .api_error import JSON_TYPE, ApiError, RequestFields, as_api_error
from .chunks import DONE, error_event
from .connected import CLOSED, EventStream, while_connected
from .engine_loop import EngineLoop
from .generation import Generation, SequenceRequest


class Answer(Protocol):
    """One request of a kind. `id`: what the client can quote."""

    id: str
    is_stream: bool
    fields: RequestFields

    async def sequences(self) -> list[SequenceRequest]:
        """What to ask the engine for. Raises ApiError or a FlowServeError of the request's fault."""
        ...

    async def body(self, generation: Generation) -> bytes:
        """The whole answer as JSON. Raises ApiError."""
        ...

    def events(self, generation: Generation) -> AsyncIterator[bytes]:
        """The answer as server-sent events, without the last word. Raises ApiError."""
        ...


async def respond(answer: Answer, request: Request, engine: EngineLoop, patience_s: float) -> Response:
    """Raises ApiError or FlowServeError while nothing is sent. Whatever runs ends when the client leaves."""
    try:
        generation = engine.submit(answer.id, await answer.sequences(), answer.fields)
    except InvalidRequestError as error:
        raise as_api_error(error, answer.fields) from error
    if not answer.is_stream:
        try:
            body = await while_connected(request.receive, answer.body(generation))
        finally:
            generation.close()
        return Response(status_code=CLOSED) if body is None else Response(body, media_type=JSON_TYPE)
    try:
        # The status must wait for the engine's word: afterwards an error could only be an event.
        stays = await while_connected(request.receive, _accepted(generation))
    except BaseException:
        generation.close()
        raise
    if not stays:
        generation.close()
        return Response(status_code=CLOSED)
    return EventStream(_to_the_end(answer.events(generation)), generation.close, patience_s)


async def _accepted(generation: Generation) -> bool:
    await generation.accepted()
    return True


async def _to_the_end(events: AsyncIterator[bytes]) -> AsyncIterator[bytes]:
    """The status is out: an error comes as an event."""
    try:
        async for event in events:
            yield event
    except Exception as error:
        if not isinstance(error, ApiError):
            traceback.print_exc()
        yield error_event(as_api_error(error).body())
    yield DONE
