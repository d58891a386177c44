"""What goes into and comes out of a hosted model: the MessagePack values of model requests.

A model request is a job of two tasks. The tokenizer executor gets `ChatInput` (method `chat`) or
`CompletionInput` (method `generate`) and returns `TokenizedPrompt`; the engine executor gets that and returns
`Generated`, streaming `GeneratedDelta` items where the request's kind is `stream` (its final value is
`Generated` all the same).

A context is a prompt start that is kept by name. Method `cache` (`ContextInput`) makes one: the controller keeps the
messages, the engine their KV as far as it can. A chat whose OpenRequest names a context gets its record as
`ChatInput.context` from the controller, so that any executor can serve it.

`embed` (`EmbedInput`) goes to the engine executor at once, which returns `Embedded`: embedding models tokenise in
their own way.
"""

from __future__ import annotations

import builtins
from typing import Any

import msgspec

ENGINE_SEATS = 32
"""Sequences that an engine runs at once, and tasks that it is given unless they take others' seats."""
TOKENIZER_SEATS = 32
"""Prompts that a tokenizer is given at once."""
JOURNAL_TOKEN_BYTES = 4
"""Of a token in an engine's journal (`TaskOutputs.journal`), at least: log probabilities and marks come on top."""


class GenerationParams(msgspec.Struct, frozen=True, omit_defaults=True):
    """Sampling, with OpenAI's and vLLM's names; None where the model's own default applies."""

    max_tokens: int | None = None
    temperature: float | None = None
    top_p: float | None = None
    top_k: int | None = None
    min_p: float | None = None
    seed: int | None = None
    presence_penalty: float | None = None
    frequency_penalty: float | None = None
    repetition_penalty: float | None = None
    logit_bias: dict[int, float] | None = None
    min_tokens: int | None = None
    ignore_eos: bool | None = None
    stop_token_ids: list[int] | None = None
    bad_words: list[str] | None = None
    stop: list[str] = []
    n: int | None = None
    """Answers; of a stream 1."""
    logprobs: int | None = None
    """So many of the likeliest tokens are told with each token of an answer; None = not even the token's own."""
    json_schema: dict[str, Any] | None = None
    """Output is constrained to this JSON schema."""


class ContextInput(msgspec.Struct, frozen=True, omit_defaults=True):
    """What a context is made of. ttl_s: how long it lives after its last use. continues: another context, whose
    messages come before and whose tools are its own; the controller puts them in their places."""

    context_id: str
    messages: list[dict[str, Any]]
    ttl_s: float
    tools: list[dict[str, Any]] = []
    continues: str = ""


class ChatInput(msgspec.Struct, frozen=True, omit_defaults=True):
    """`messages` and `tools` in OpenAI's shapes."""

    messages: list[dict[str, Any]]
    params: GenerationParams = GenerationParams()
    tools: list[dict[str, Any]] = []
    context: ContextInput | None = None
    """Which the messages continue, and whose tools are the chat's; written by the controller."""


class CompletionInput(msgspec.Struct, frozen=True, omit_defaults=True):
    prompt: str
    params: GenerationParams = GenerationParams()


class EmbedInput(msgspec.Struct, frozen=True, omit_defaults=True):
    """Texts, or their token ids. truncate: cut what is too long instead of refusing it."""

    texts: list[str | list[int]]
    truncate: bool = False


class Embedded(msgspec.Struct, frozen=True, omit_defaults=True):
    """A vector for each text, in their order."""

    vectors: list[list[float]]
    prompt_tokens: int


class PromptContext(msgspec.Struct, frozen=True):
    """The first `num_tokens` of a prompt are those of a context."""

    context_id: str
    num_tokens: int
    ttl_s: float


class TokenizedPrompt(msgspec.Struct, frozen=True, omit_defaults=True):
    token_ids: list[int]
    params: GenerationParams = GenerationParams()
    parse_tools: bool = False
    """Tool calls are taken out of the text (the chat offered tools)."""
    context: PromptContext | None = None


class ToolCall(msgspec.Struct, frozen=True, omit_defaults=True):
    id: str
    name: str
    arguments: dict[str, Any]


class LikelyToken(msgspec.Struct, frozen=True):
    """token: its text, with U+FFFD for what is no character alone.  logprob: natural.  bytes: what the token spells."""

    token: str
    logprob: float
    bytes: builtins.bytes


class TokenLogprob(msgspec.Struct, frozen=True):
    """A token of an answer, in OpenAI's shape. top_logprobs: the likeliest in its place, best first."""

    token: str
    logprob: float
    bytes: builtins.bytes
    top_logprobs: list[LikelyToken]


class Generated(msgspec.Struct, frozen=True, omit_defaults=True):
    """finish_reason: stop, length, tool_calls. others: the answers after the first; all have the prompt in common."""

    text: str
    finish_reason: str
    prompt_tokens: int
    completion_tokens: int
    tool_calls: list[ToolCall] = []
    malformed_calls: list[str] = []
    """Texts between tool-call tags that are no valid call."""
    logprobs: list[TokenLogprob] = []
    others: list[Generated] = []
    cached_tokens: int = 0
    """Of the prompt: those whose KV was there already."""


class GeneratedDelta(msgspec.Struct, frozen=True, omit_defaults=True):
    """Several tokens where the reader is slow."""

    text: str = ""
    tool_calls: list[ToolCall] = []
