"""POST /v1/chat/completions."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import replace
from functools import cached_property, partial
from typing import Any

import msgspec

from ..answer import AnswerStream
from ..errors import FlowServeError
from ..sampling_params import StructuredOutputsParams
from ..tool_calls.events import AnswerEvent, ArgumentsDelta, CallEnd, CallStart, MalformedCall, ReasoningDelta
from .answer_ids import AnswerIds
from .answer_readers import AnswerReader
from .answering import Pieces
from .api_error import ApiError, RequestFields, as_api_error, invalid
from .chat_choice import ChatChoice, utf8
from .chat_messages import template_messages
from .chunks import DONE, ChunkWriter, Usage, encode, error_events
from .logprobs import ChatLogprobs, chat_logprobs
from .outbox import Piece
from .prompts import Prompt, SequenceRequest
from .requests import ChatRequest, one_constraint
from .served_model import ServedModel
from .tool_choice import ToolChoice
from .truncation import shortened

MAX_TOP_LOGPROBS = 20

_ROLE = b'"delta":{"role":"assistant","content":""}'
_NOTHING = b'"delta":{}'


class FunctionBody(msgspec.Struct):
    name: str
    arguments: str


class CallBody(msgspec.Struct):
    id: str
    type: str
    function: FunctionBody


class MessageBody(msgspec.Struct, omit_defaults=True):
    role: str
    content: str | None
    refusal: str | None
    reasoning_content: str | None = None
    tool_calls: list[CallBody] | None = None


class ChatChoiceBody(msgspec.Struct):
    index: int
    message: MessageBody
    logprobs: ChatLogprobs | None
    finish_reason: str | None


class ChatBody(msgspec.Struct):
    id: str
    object: str
    created: int
    model: str
    choices: list[ChatChoiceBody]
    usage: Usage


class Chat:
    """One request: a conversation, n answers to it."""

    def __init__(self, request: ChatRequest, model: ServedModel) -> None:
        """Raises ApiError for what no conversation could make right."""
        request.check_supported()
        self._request = request
        self._model = model
        self._name = model.check_name(request.model)
        self._ids = AnswerIds()
        self.is_stream = bool(request.stream)
        self._created = int(time.time())
        self._tools = ToolChoice(request.tools or [], request.tool_choice, request.parallel_tool_calls is not False)
        self._structured, grammar = self._constraint()
        limit = "max_tokens" if request.max_completion_tokens is None else "max_completion_tokens"
        self.fields = RequestFields("messages", grammar, limit)
        self._top_logprobs = _top_logprobs(request)
        self._messages = template_messages(request.messages)

    place = 0

    @property
    def id(self) -> str:
        return self._ids.answer("chatcmpl-")

    def identify(self, seed: str, created: int, place: int = 0) -> None:
        self._ids, self._created = AnswerIds(seed), created

    def prompts(self) -> list[Prompt]:
        """Raises ApiError or a FlowServeError of the request's fault."""
        return [self._prompt(self._messages)]

    def shorten(self, max_tokens: int | None) -> None:
        """Leaves out the oldest turns until the rest has room for an answer. Raises as `prompts`.

        max_tokens: of the answer, at most half of the context; None for an eighth of it.
        """
        limit = self._model.max_model_len
        room = limit // 8 if max_tokens is None else min(max_tokens, limit // 2)
        self._messages = shortened(
            self._messages, lambda messages: self._model.fits(self._prompt(messages), limit - max(1, room))
        )

    def _prompt(self, messages: list[dict[str, Any]]) -> Prompt:
        variables = dict(self._request.chat_template_kwargs or {})
        if self._request.reasoning_effort is not None:
            variables.setdefault("reasoning_effort", self._request.reasoning_effort)
        return Prompt(self._model.render(messages, self._tools.shown, variables), add_special_tokens=False)

    def sequences(self, prompts: Sequence[Prompt]) -> list[SequenceRequest]:
        """Raises ApiError or a FlowServeError of the request's fault."""
        [prompt] = prompts
        max_tokens = self._request.max_completion_tokens
        params = self._request.sampling(
            self._model.sampling_defaults,
            max_tokens=self._request.max_tokens if max_tokens is None else max_tokens,
            logprobs=self._top_logprobs,
            structured_outputs=self._structured,
            **({"skip_special_tokens": False} if self._tools.needs_special_tokens(self._model.answer_format) else {}),
        )
        self.choices = [
            ChatChoice(self._reader(prompt.text), partial(self._call_id, index)) for index in range(params.n)
        ]
        request = self._request
        return [SequenceRequest(prompt.token_ids or [], params, request.priority or 0, request.cache_salt)]

    def keep(self, pieces: Pieces) -> None:
        for index, piece in pieces:
            self.choices[index].keep(self.choices[index].read(piece), piece)

    def body(self) -> bytes:
        choices = [self._choice_body(index, choice) for index, choice in enumerate(self.choices)]
        return encode(ChatBody(self.id, "chat.completion", self._created, self._name, choices, self._usage()))

    def first_events(self) -> bytes:
        return b"".join(self._writer.choice(index, _ROLE) for index in range(len(self.choices)))

    def events(self, pieces: Pieces) -> bytes:
        return b"".join([event for index, piece in pieces for event in self._events(self._writer, index, piece)])

    def skip(self, pieces: Pieces) -> None:
        self.events(pieces)

    def last_events(self) -> bytes:
        return (self._writer.usage(self._usage()) if self._writer.with_usage else b"") + DONE

    def error_events(self, error: ApiError) -> bytes:
        return error_events(error)

    @cached_property
    def _writer(self) -> ChunkWriter:
        head = {"id": self.id, "object": "chat.completion.chunk", "created": self._created, "model": self._name}
        return ChunkWriter(head, self._request.wants_usage_chunk)

    def _call_id(self, choice: int, number: int) -> str:
        return self._ids.call(choice, number)

    def _reader(self, prompt: str) -> AnswerReader:
        """A grammar leaves no room for reasoning, unless it is that of strict tools; that of an answer's format leaves
        none for calls."""
        if self._request.format_params() is not None:
            return AnswerStream()
        form, is_free = self._model.answer_format, self._structured is None or self._structured == self._strictness
        return self._tools.reader(form if is_free else replace(form, has_reasoning=False), prompt)

    def _events(self, writer: ChunkWriter, index: int, piece: Piece) -> list[bytes]:
        """The log probabilities of the piece go with its first event."""
        choice = self.choices[index]
        deltas = [_delta(event, choice) for event in choice.read(piece) if not isinstance(event, CallEnd)]
        logprobs = chat_logprobs(piece.logprobs, self._model.token_text) if piece.logprobs else None
        if logprobs is not None and not deltas:
            deltas = [_NOTHING]
        events = [writer.choice(index, delta, logprobs if n == 0 else None) for n, delta in enumerate(deltas)]
        if piece.finish_reason is not None:
            events.append(writer.choice(index, _NOTHING, None, self._finish_reason(choice)))
        return events

    def _choice_body(self, index: int, choice: ChatChoice) -> ChatChoiceBody:
        calls = [CallBody(call.id, "function", FunctionBody(call.name, call.arguments)) for call in choice.calls]
        content = choice.content if choice.content or not calls else None
        logprobs = None
        if self._top_logprobs is not None:
            logprobs = chat_logprobs(choice.logprobs, self._model.token_text)
        message = MessageBody("assistant", content, None, choice.reasoning or None, calls or None)
        return ChatChoiceBody(index, message, logprobs, self._finish_reason(choice))

    def _finish_reason(self, choice: ChatChoice) -> str | None:
        """OpenAI says "stop" for a call that the client itself had named."""
        if choice.has_calls and choice.finish_reason == "stop" and self._tools.named is None:
            return "tool_calls"
        return choice.finish_reason

    def _usage(self) -> Usage:
        first = self.choices[0]  # the others find its prompt
        num_prompt_tokens, num_cached_tokens = first.num_prompt_tokens, first.num_cached_tokens
        return Usage.of(num_prompt_tokens, num_cached_tokens, sum(choice.num_output_tokens for choice in self.choices))

    def _call_constraint(self) -> tuple[StructuredOutputsParams | None, StructuredOutputsParams | None]:
        """What forces calls, and what those that come unforced are held to. Raises ApiError."""
        token_id = self._model.tokenizer.token_id
        try:
            if self._tools.forces:
                return self._tools.constraint(self._model.answer_format, token_id), None
            return None, self._tools.strictness(self._model.answer_format, token_id) if self._tools.shown else None
        except FlowServeError as error:  # no template, or a function that the model's format cannot call
            raise as_api_error(error, RequestFields("messages", "tools")) from None

    def _constraint(self) -> tuple[StructuredOutputsParams | None, str | None]:
        """From the three fields that may ask for one, and which one holds it. Raises ApiError when two do."""
        request = self._request
        forced, self._strictness = self._call_constraint()
        params, asked = one_constraint(
            tool_choice=forced, response_format=request.format_params(), structured_outputs=request.constraint()
        )
        if params is None and self._strictness is not None:
            return self._strictness, "tools"
        return params, "tools" if asked == "tool_choice" else asked


def _delta(event: AnswerEvent, choice: ChatChoice) -> bytes:
    if isinstance(event, CallStart):
        function = {"name": utf8(event.name), "arguments": ""}
        call: dict[str, Any] = {"index": event.index, "id": choice.call_id(event.index), "type": "function"}
        call["function"] = function
        return b'"delta":{"tool_calls":[' + encode(call) + b"]}"
    if isinstance(event, ArgumentsDelta):
        call = {"index": event.index, "function": {"arguments": utf8(event.text)}}
        return b'"delta":{"tool_calls":[' + encode(call) + b"]}"
    assert not isinstance(event, CallEnd | MalformedCall)
    field = b'"reasoning_content":' if isinstance(event, ReasoningDelta) else b'"content":'
    return b'"delta":{' + field + encode(event.text) + b"}"


def _top_logprobs(request: ChatRequest) -> int | None:
    """How many alternatives to report for each token; None = no log probabilities at all."""
    top = request.top_logprobs
    if not request.logprobs:
        if top:
            raise invalid("top_logprobs needs logprobs: true", "top_logprobs")
        return None
    if top is not None and not 0 <= top <= MAX_TOP_LOGPROBS:
        raise invalid(f"top_logprobs must be 0 to {MAX_TOP_LOGPROBS}, got {top}", "top_logprobs")
    return top or 0
