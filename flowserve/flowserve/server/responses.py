"""POST /v1/responses: the newer of OpenAI's two ways to ask for an answer, as a chat that keeps nothing."""

from __future__ import annotations

import time
from collections.abc import Sequence
from typing import Any

from ..tool_calls.events import TextDelta
from .answer_ids import AnswerIds
from .answering import Pieces
from .api_error import ApiError, RequestFields
from .chat import Chat
from .chunks import encode
from .logprobs import ChatTokenLogprob, chat_logprobs
from .prompts import Prompt, SequenceRequest
from .response_items import ResponseItems
from .response_request import ResponseRequest, renamed
from .served_model import ServedModel


class ModelResponse:
    """One request: an answer as a list of items."""

    def __init__(self, request: ResponseRequest, model: ServedModel) -> None:
        """Raises ApiError for what no conversation could make right."""
        self._request = request
        self._name = model.check_name(request.model)
        self._ids = AnswerIds()
        self.is_stream = bool(request.stream)
        self._created = int(time.time())
        try:
            self._chat = Chat(request.chat(), model)
        except ApiError as error:
            raise renamed(error) from None
        grammar = {"tools": "tools", "response_format": "text.format"}.get(self._chat.fields.grammar or "")
        self.fields = RequestFields("input", grammar, "max_output_tokens")
        self._items = ResponseItems(self._ids)
        self._finish_reason: str | None = None
        self._token_text = model.token_text
        self._unsaid: list[ChatTokenLogprob] = []
        """Of tokens that have become no text yet."""

    @property
    def id(self) -> str:
        return self._ids.answer("resp_")

    @property
    def place(self) -> int:
        """Events are numbered."""
        return self._items.num_told if self.is_stream else 0

    def identify(self, seed: str, created: int, place: int = 0) -> None:
        self._ids, self._created = AnswerIds(seed), created
        self._items = ResponseItems(self._ids, place)

    def prompts(self) -> list[Prompt]:
        if self._request.truncation == "auto":
            self._chat.shorten(self._request.max_output_tokens)
        return self._chat.prompts()

    def sequences(self, prompts: Sequence[Prompt]) -> list[SequenceRequest]:
        return self._chat.sequences(prompts)

    def keep(self, pieces: Pieces) -> None:
        self._read(pieces)
        self._items.take()

    def body(self) -> bytes:
        return encode(self._described(self._status))

    def first_events(self) -> bytes:
        self._items.tell("response.created", response=self._described("in_progress"))
        self._items.tell("response.in_progress", response=self._described("in_progress"))
        return self._items.take()

    def events(self, pieces: Pieces) -> bytes:
        self._read(pieces)
        return self._items.take()

    def skip(self, pieces: Pieces) -> None:
        self._read(pieces)
        self._items.skip()

    def last_events(self) -> bytes:
        self._items.tell(f"response.{self._status}", response=self._described(self._status))
        return self._items.take()

    def error_events(self, error: ApiError) -> bytes:
        """`error` beside OpenAI's fields: what its clients look for to raise."""
        details = {"message": error.message, "code": error.code, "param": error.param}
        self._items.tell("error", **details, error={**details, "type": error.kind})
        return self._items.take()

    def _read(self, pieces: Pieces) -> None:
        for _, piece in pieces:
            if piece.logprobs:
                self._unsaid += chat_logprobs(piece.logprobs, self._token_text).content
            events = self._chat.choices[0].read(piece)
            has_text = any(isinstance(event, TextDelta) for event in events)
            if events and not has_text:  # they were tokens of something else
                self._unsaid = []
            for event in events:
                self._items.add(event, self._unsaid if isinstance(event, TextDelta) else ())
                self._unsaid = [] if isinstance(event, TextDelta) else self._unsaid
            if piece.finish_reason is not None:
                self._finish_reason = piece.finish_reason
                self._items.finish(piece.finish_reason == "stop", self._unsaid)

    @property
    def _status(self) -> str:
        return "completed" if self._finish_reason == "stop" else "incomplete"

    def _described(self, status: str) -> dict[str, Any]:
        """Clients' types want every field."""
        request = self._request
        choice, form = request.tool_choice, request.text.format if request.text is not None else None
        return {
            "id": self.id,
            "object": "response",
            "created_at": self._created,
            "status": status,
            "error": None,
            "incomplete_details": {"reason": "max_output_tokens"} if status == "incomplete" else None,
            "instructions": request.instructions,
            "max_output_tokens": request.max_output_tokens,
            "metadata": request.metadata or {},
            "model": self._name,
            "output": self._items.items,
            "parallel_tool_calls": request.parallel_tool_calls is not False,
            "previous_response_id": None,
            "reasoning": {"effort": request.reasoning.effort if request.reasoning else None, "summary": None},
            "store": False,
            "temperature": request.temperature,
            "text": {"format": form if form is not None else {"type": "text"}},
            "tool_choice": "auto" if choice is None else choice,
            "tools": request.tools or [],
            "top_logprobs": request.top_logprobs or 0,
            "top_p": request.top_p,
            "truncation": request.truncation or "disabled",
            "usage": self._usage() if status != "in_progress" else None,
        }

    def _usage(self) -> dict[str, Any]:
        choice = self._chat.choices[0]
        return {
            "input_tokens": choice.num_prompt_tokens,
            "input_tokens_details": {"cached_tokens": choice.num_cached_tokens},
            "output_tokens": choice.num_output_tokens,
            "output_tokens_details": {"reasoning_tokens": 0},
            "total_tokens": choice.num_prompt_tokens + choice.num_output_tokens,
        }
