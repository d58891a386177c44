"""Answers over HTTP: sequences into the engine, one body or a stream of events out."""

from __future__ import annotations

import traceback
from collections.abc import AsyncIterator

from starlette.requests import Request
from starlette.responses import Response

from deepserve_http.connected import CLOSED, EventStream, while_connected

from ..errors import InvalidRequestError
from .answering import Answer
from .api_error import JSON_TYPE, ApiError, as_api_error
from .beside_loop import beside_loop
from .engine_loop import EngineLoop
from .generation import Generation
from .prompts import Prompt
from .served_model import ServedModel


async def respond(
    answer: Answer, size: int, request: Request, model: ServedModel, engine: EngineLoop, patience_s: float
) -> Response:
    """size: of the request's body, in bytes.

    Raises ApiError or FlowServeError while nothing is sent. Whatever runs ends when the client leaves.
    """
    try:
        prompts = [await encoded(model, prompt) for prompt in await beside_loop(size, answer.prompts)]
        generation = engine.submit(answer.id, answer.sequences(prompts), answer.fields)
    except InvalidRequestError as error:
        raise as_api_error(error, answer.fields) from error
    if not answer.is_stream:
        try:
            body = await while_connected(request.receive, _body(answer, generation))
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
    return EventStream(_to_the_end(answer, _events(answer, generation)), generation.close, patience_s)


async def encoded(model: ServedModel, prompt: Prompt, is_bounded: bool = True) -> Prompt:
    """As `ServedModel.encode`."""
    return await beside_loop(len(prompt.text) if prompt.token_ids is None else 0, model.encode, prompt, is_bounded)


async def _accepted(generation: Generation) -> bool:
    await generation.accepted()
    return True


async def _body(answer: Answer, generation: Generation) -> bytes:
    async for pieces in generation.pieces():
        answer.keep(pieces)
    return answer.body()


async def _events(answer: Answer, generation: Generation) -> AsyncIterator[bytes]:
    yield answer.first_events()
    async for pieces in generation.pieces():
        yield answer.events(pieces)
    yield answer.last_events()


async def _to_the_end(answer: Answer, events: AsyncIterator[bytes]) -> AsyncIterator[bytes]:
    """The status is out: an error comes as an event."""
    try:
        async for event in events:
            yield event
    except Exception as error:
        if not isinstance(error, ApiError):
            traceback.print_exc()
        yield answer.error_events(as_api_error(error))
