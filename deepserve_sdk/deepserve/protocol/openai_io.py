"""What the gateway of the OpenAI API and a model's pods say to each other: MessagePack values of requests.

A request to generate is a stream request to the model with one of GENERATION_METHODS: the tokenizer executor gets
`OpenAIRequest` and returns `OpenAIPrompts`; the engine executor gets that, streams items of bytes that are ready to be
written (server-sent events, or one whole JSON body) and ends with `OpenAIUsage`. A request with one of TOKEN_METHODS
goes to the tokenizer executor alone, one with EMBEDDING_METHOD to the model's; they answer in the same way. What goes
wrong ends a task with the outcome `error` and an `OpenAIError`.

Contexts are made by the method `cache` of `model_io`, for OpenAI clients as for the SDK's.
"""

from __future__ import annotations

import msgspec

from deepserve.protocol.model_io import ContextInput, PromptContext

GENERATION_METHODS = ("openai.chat", "openai.completions", "openai.responses")
TOKEN_METHODS = ("openai.tokenize", "openai.detokenize")
EMBEDDING_METHOD = "openai.embeddings"
METHODS = (*GENERATION_METHODS, *TOKEN_METHODS, EMBEDDING_METHOD)


class OpenAIRequest(msgspec.Struct, frozen=True):
    """`body`: the HTTP request's, JSON. context: which a chat continues; written by the controller, as in ChatInput.

    turn: the lower, the earlier in the engine, before what the body says of priorities: whose key has more at the pods
    than another's gives way to it.
    """

    body: bytes
    context: ContextInput | None = None
    turn: int = 0


class EncodedPrompt(msgspec.Struct, frozen=True):
    text: str
    token_ids: list[int]


class OpenAIPrompts(msgspec.Struct, frozen=True):
    """context: that the only prompt begins with. `body` has its messages and tools, too. turn: as in OpenAIRequest."""

    body: bytes
    prompts: list[EncodedPrompt]
    context: PromptContext | None = None
    turn: int = 0


class OpenAIUsage(msgspec.Struct, frozen=True, omit_defaults=True):
    """Tokens of the whole request; cached_tokens are those of the prompts that were in the KV cache."""

    prompt_tokens: int = 0
    completion_tokens: int = 0
    cached_tokens: int = 0


class OpenAIError(msgspec.Struct, frozen=True):
    """What the client gets instead of an answer; `body` is in OpenAI's shape."""

    status: int
    body: bytes
    headers: dict[str, str] = {}
