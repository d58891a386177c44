"""POST /v1/completions."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import cached_property

import msgspec

from ..outputs import TokenLogprobs
from .answer_ids import AnswerIds
from .answering import Pieces
from .api_error import ApiError, RequestFields, invalid
from .chunks import DONE, ChunkWriter, Usage, encode, error_events
from .logprobs import CompletionLogprobs, TextPlace, completion_logprobs, prompt_logprobs
from .outbox import Piece
from .prompts import Prompt, SequenceRequest
from .requests import CompletionRequest, listed_prompts, one_constraint
from .served_model import ServedModel

DEFAULT_MAX_TOKENS = 16


class CompletionChoice(msgspec.Struct):
    index: int
    text: str
    logprobs: CompletionLogprobs | None
    finish_reason: str | None


class CompletionBody(msgspec.Struct):
    id: str
    object: str
    created: int
    model: str
    choices: list[CompletionChoice]
    usage: Usage


@dataclass(slots=True)
class _Choice:
    """One completion while it grows. prompt: the place of its prompt.  echo: text that it begins with."""

    prompt: int
    echo: str
    texts: list[str] = field(default_factory=list)
    logprobs: CompletionLogprobs | None = None
    finish_reason: str | None = None
    num_prompt_tokens: int = 0
    num_cached_tokens: int = 0
    num_output_tokens: int = 0
    has_begun: bool = False
    place: TextPlace = field(default_factory=TextPlace)
    """Behind the tokens whose log probabilities were told."""


class Completion:
    """One request: its prompts, n completions of each."""

    def __init__(self, request: CompletionRequest, model: ServedModel) -> None:
        """Raises ApiError for what no prompt could make right."""
        self._request = request
        self._model = model
        self._name = model.check_name(request.model)
        self._prompt_logprobs: dict[int, tuple[TokenLogprobs, ...]] = {}
        self._ids = AnswerIds()
        self.is_stream = bool(request.stream)
        request.check_supported()
        formats = {"response_format": request.format_params(), "structured_outputs": request.constraint()}
        self._structured, grammar = one_constraint(**formats)
        self.fields = RequestFields("prompt", grammar)
        self._created = int(time.time())
        self._only_echoes = bool(request.echo) and request.max_tokens == 0

    place = 0

    @property
    def id(self) -> str:
        return self._ids.answer("cmpl-")

    def identify(self, seed: str, created: int, place: int = 0) -> None:
        self._ids, self._created = AnswerIds(seed), created

    def prompts(self) -> list[Prompt]:
        """Raises ApiError."""
        listed = listed_prompts(self._request.prompt, "prompt", self._model.max_model_len)
        return [self._prompt(prompt) for prompt in listed]

    def sequences(self, prompts: Sequence[Prompt]) -> list[SequenceRequest]:
        """Raises ApiError or InvalidRequestError."""
        request = self._request
        max_tokens = DEFAULT_MAX_TOKENS if request.max_tokens is None else request.max_tokens
        params = request.sampling(
            self._model.sampling_defaults,
            max_tokens=1 if self._only_echoes else max_tokens,
            logprobs=request.logprobs,
            prompt_logprobs=request.logprobs if request.echo else None,
            structured_outputs=self._structured,
        )
        self._prompt_ids = [prompt.token_ids or [] for prompt in prompts]
        echoes = [prompt.text if request.echo else "" for prompt in prompts]
        self._choices = [_Choice(index, echo) for index, echo in enumerate(echoes) for _ in range(params.n)]
        priority, salt = request.priority or 0, request.cache_salt
        return [SequenceRequest(token_ids, params, priority, salt) for token_ids in self._prompt_ids]

    def keep(self, pieces: Pieces) -> None:
        for index, piece in pieces:
            self._extend(self._choices[index], piece)

    def body(self) -> bytes:
        choices = [
            CompletionChoice(index, "".join(choice.texts), choice.logprobs, choice.finish_reason)
            for index, choice in enumerate(self._choices)
        ]
        return encode(CompletionBody(self.id, "text_completion", self._created, self._name, choices, self._usage()))

    def first_events(self) -> bytes:
        return b""

    def events(self, pieces: Pieces) -> bytes:
        return b"".join([self._event(index, piece) for index, piece in pieces])

    def skip(self, pieces: Pieces) -> None:
        self.events(pieces)

    def last_events(self) -> bytes:
        return (self._writer.usage(self._usage()) if self._writer.with_usage else b"") + DONE

    def error_events(self, error: ApiError) -> bytes:
        return error_events(error)

    @cached_property
    def _writer(self) -> ChunkWriter:
        head = {"id": self.id, "object": "text_completion", "created": self._created, "model": self._name}
        return ChunkWriter(head, self._request.wants_usage_chunk)

    def _event(self, index: int, piece: Piece) -> bytes:
        choice = self._choices[index]
        self._extend(choice, piece)
        text, logprobs = "".join(choice.texts), choice.logprobs
        choice.texts, choice.logprobs = [], None  # sent
        if not text and logprobs is None and piece.finish_reason is None:
            return b""
        return self._writer.choice(index, b'"text":' + encode(text), logprobs, piece.finish_reason)

    def _extend(self, choice: _Choice, piece: Piece) -> None:
        is_first, choice.has_begun = not choice.has_begun, True
        if is_first:
            choice.texts.append(choice.echo)
        choice.finish_reason = piece.finish_reason
        choice.num_prompt_tokens, choice.num_cached_tokens = piece.num_prompt_tokens, piece.num_cached_tokens
        if piece.prompt_logprobs is not None:
            self._prompt_logprobs[choice.prompt] = piece.prompt_logprobs
        texts = self._model.token_text
        if is_first and choice.prompt in self._prompt_logprobs:
            first = self._prompt_ids[choice.prompt][0]
            self._tell(choice, prompt_logprobs(first, self._prompt_logprobs[choice.prompt], texts, choice.place))
        if self._only_echoes:  # the one token that the engine gives with a prompt is nobody's
            choice.finish_reason = choice.finish_reason and "length"
            return
        choice.texts.append(piece.text)
        choice.num_output_tokens = piece.num_output_tokens
        if piece.logprobs:
            self._tell(choice, completion_logprobs(piece.logprobs, texts, choice.place))

    def _tell(self, choice: _Choice, logprobs: CompletionLogprobs) -> None:
        if choice.logprobs is None:
            choice.logprobs = logprobs
        else:
            choice.logprobs.extend(logprobs)

    def _usage(self) -> Usage:
        firsts = {choice.prompt: choice for choice in reversed(self._choices)}.values()
        return Usage.of(
            sum(choice.num_prompt_tokens for choice in firsts),
            sum(choice.num_cached_tokens for choice in firsts),
            sum(choice.num_output_tokens for choice in self._choices),
        )

    def _prompt(self, prompt: str | list[int]) -> Prompt:
        if isinstance(prompt, str):
            return Prompt(prompt)
        if any(not 0 <= token_id < 1 << 32 for token_id in prompt):  # they may have to travel, before an engine looks
            raise invalid("prompt holds numbers that are no token ids", "prompt")
        echo = self._model.tokenizer.decode(prompt) if self._request.echo else ""
        return Prompt(echo, token_ids=prompt)
