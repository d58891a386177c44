"""POST /v1/completions."""

from __future__ import annotations

import secrets
import time
from collections.abc import AsyncIterator
from dataclasses import dataclass, field

import msgspec

from .answering import choice_params
from .api_error import ApiError, invalid
from .chunks import DONE, ChunkWriter, Usage, encode, error_event
from .generation import Generation, SequenceRequest
from .logprobs import CompletionLogprobs, completion_logprobs
from .outbox import Piece
from .requests import CompletionRequest
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
    """One completion while it grows. `shown`: characters that the client has, of the echo too."""

    echo: str
    texts: list[str] = field(default_factory=list)
    logprobs: CompletionLogprobs | None = None
    finish_reason: str | None = None
    num_prompt_tokens: int = 0
    num_output_tokens: int = 0
    shown: int = 0


class Completion:
    """One request: its prompts, n completions of each."""

    def __init__(self, request: CompletionRequest, model: ServedModel) -> None:
        """Raises ApiError for what no prompt could make right."""
        self._request = request
        self._model = model
        self._name = model.check_name(request.model)
        self._num_choices = request.num_choices
        self.id = f"cmpl-{secrets.token_hex(12)}"
        self.is_stream = bool(request.stream)
        self._created = int(time.time())
        if request.suffix:
            raise invalid("suffix is not supported: the model completes at the end of a text only", "suffix")
        if request.best_of is not None and request.best_of != self._num_choices:
            raise invalid("best_of other than n is not supported", "best_of")
        if request.echo and request.logprobs is not None:
            raise invalid("logprobs of an echoed prompt are not supported", "logprobs")

    async def sequences(self) -> list[SequenceRequest]:
        """Raises ApiError or InvalidRequestError."""
        prompts = [await self._prompt(prompt) for prompt in _prompts(self._request.prompt)]
        self._choices = [_Choice(echo) for _, echo in prompts for _ in range(self._num_choices)]
        max_tokens = DEFAULT_MAX_TOKENS if self._request.max_tokens is None else self._request.max_tokens
        params = self._request.sampling(
            self._model.sampling_defaults,
            max_tokens=max_tokens,
            logprobs=self._request.logprobs,
            structured_outputs=self._request.constraint(),
        )
        each = choice_params(params, self._num_choices)
        return [SequenceRequest(ids, params, self._request.priority) for ids, _ in prompts for params in each]

    async def body(self, generation: Generation) -> bytes:
        async for pieces in generation.pieces():
            for index, piece in pieces:
                self._extend(self._choices[index], piece)
        choices = [
            CompletionChoice(index, choice.echo + "".join(choice.texts), choice.logprobs, choice.finish_reason)
            for index, choice in enumerate(self._choices)
        ]
        return encode(CompletionBody(self.id, "text_completion", self._created, self._name, choices, self._usage()))

    async def events(self, generation: Generation) -> AsyncIterator[bytes]:
        head = {"id": self.id, "object": "text_completion", "created": self._created, "model": self._name}
        writer = ChunkWriter(head, self._request.wants_usage_chunk)
        try:
            if echoes := [self._echo(writer, index) for index, choice in enumerate(self._choices) if choice.echo]:
                yield b"".join(echoes)
            async for pieces in generation.pieces():
                yield b"".join([self._event(writer, index, piece) for index, piece in pieces])
        except ApiError as error:
            yield error_event(error.body()) + DONE
            return
        yield (writer.usage(self._usage()) if writer.with_usage else b"") + DONE

    def _echo(self, writer: ChunkWriter, index: int) -> bytes:
        return writer.choice(index, b'"text":' + encode(self._choices[index].echo))

    def _event(self, writer: ChunkWriter, index: int, piece: Piece) -> bytes:
        choice = self._choices[index]
        logprobs = self._extend(choice, piece)
        choice.texts.clear()  # sent
        choice.logprobs = None
        if not piece.text and logprobs is None and piece.finish_reason is None:
            return b""
        return writer.choice(index, b'"text":' + encode(piece.text), logprobs, piece.finish_reason)

    def _extend(self, choice: _Choice, piece: Piece) -> CompletionLogprobs | None:
        """Returns the log probabilities of the piece."""
        choice.texts.append(piece.text)
        choice.finish_reason = piece.finish_reason
        choice.num_prompt_tokens, choice.num_output_tokens = piece.num_prompt_tokens, piece.num_output_tokens
        if not piece.logprobs:
            return None
        logprobs = completion_logprobs(piece.logprobs, self._model.token_text, choice.shown)
        choice.shown += sum(map(len, logprobs.tokens))
        if choice.logprobs is None:
            choice.logprobs = logprobs
        else:
            for name in logprobs.__struct_fields__:
                getattr(choice.logprobs, name).extend(getattr(logprobs, name))
        return logprobs

    def _usage(self) -> Usage:
        prompts = sum(choice.num_prompt_tokens for choice in self._choices[:: self._num_choices])
        return Usage.of(prompts, sum(choice.num_output_tokens for choice in self._choices))

    async def _prompt(self, prompt: str | list[int]) -> tuple[list[int], str]:
        """Token ids, and the text to echo."""
        if isinstance(prompt, str):
            return await self._model.encode(prompt, True), prompt if self._request.echo else ""
        return prompt, self._model.tokenizer.decode(self._checked(prompt)) if self._request.echo else ""

    def _checked(self, token_ids: list[int]) -> list[int]:
        if any(not 0 <= token_id < 1 << 32 for token_id in token_ids):
            raise invalid("prompt holds numbers that are no token ids", "prompt")
        return token_ids


def _prompts(given: str | list[str | int | list[int]]) -> list[str | list[int]]:
    """One text, a list of texts, token ids or a list of those, as a list of prompts."""
    if isinstance(given, str):
        return [given]
    if not given:
        raise invalid("prompt is an empty list", "prompt")
    ids = [item for item in given if isinstance(item, int)]
    if len(ids) == len(given):
        return [ids]
    texts_or_ids = [item for item in given if not isinstance(item, int)]
    if len(texts_or_ids) != len(given):
        raise invalid("prompt mixes token ids with prompts", "prompt")
    return texts_or_ids
