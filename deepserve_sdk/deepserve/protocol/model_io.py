"""What goes into and comes out of a hosted model: the MessagePack values of model requests.

A model request is a job of two tasks. The tokenizer executor gets `ChatInput` (method `chat`) or
`CompletionInput` (method `generate`) and returns `TokenizedPrompt`; the engine executor gets that and returns
`Generated`, streaming `GeneratedDelta` items where the request's kind is `stream` (its final value is
`Generated` all the same).
"""

from __future__ import annotations

from typing import Any

import msgspec


class GenerationParams(msgspec.Struct, frozen=True, omit_defaults=True):
    """Sampling, with OpenAI's and vLLM's names; None where the model's own default applies."""

    max_tokens: int | None = None
    temperature: float | None = None
    top_p: float | None = None
    top_k: int | None = None
    min_p: float | None = None
    seed: int | None = None
    stop: list[str] = []
    json_schema: dict[str, Any] | None = None
    """Output is constrained to this JSON schema."""


class ChatInput(msgspec.Struct, frozen=True, omit_defaults=True):
    """`messages` and `tools` in OpenAI's shapes."""

    messages: list[dict[str, Any]]
    params: GenerationParams = GenerationParams()
    tools: list[dict[str, Any]] = []


class CompletionInput(msgspec.Struct, frozen=True, omit_defaults=True):
    prompt: str
    params: GenerationParams = GenerationParams()


class TokenizedPrompt(msgspec.Struct, frozen=True, omit_defaults=True):
    token_ids: list[int]
    params: GenerationParams = GenerationParams()
    parse_tools: bool = False
    """Tool calls are taken out of the text (the chat offered tools)."""


class ToolCall(msgspec.Struct, frozen=True, omit_defaults=True):
    id: str
    name: str
    arguments: dict[str, Any]


class Generated(msgspec.Struct, frozen=True, omit_defaults=True):
    """finish_reason: stop, length, tool_calls."""

    text: str
    finish_reason: str
    prompt_tokens: int
    completion_tokens: int
    tool_calls: list[ToolCall] = []
    malformed_calls: list[str] = []
    """Texts between tool-call tags that are no valid call."""


class GeneratedDelta(msgspec.Struct, frozen=True, omit_defaults=True):
    """Several tokens where the reader is slow."""

    text: str = ""
    tool_calls: list[ToolCall] = []
