"""Chats of OpenAI clients that continue a context."""

from __future__ import annotations

from typing import Any, NamedTuple

import msgspec

from deepserve.protocol.model_io import ContextInput
from deepserve_runtime.executors.flowserve_parts import ApiError, ChatRequest, decode_body


class Continued(NamedTuple):
    """Bodies of chats: `whole` has the context's messages and tools before its own; `start` makes the context's part of
    the prompt."""

    whole: bytes
    start: bytes


def continued(body: bytes, context: ContextInput) -> Continued:
    """Raises ApiError."""
    asked = decode_body(body, ChatRequest)
    if asked.tools:
        raise ApiError(400, "tools stand at the start of a prompt: give them to the context", param="tools")
    fields: dict[str, Any] = dict(msgspec.json.decode(body, type=dict[str, msgspec.Raw]))
    fields["tools"] = context.tools or None
    variables = {**(asked.chat_template_kwargs or {}), "add_generation_prompt": False}
    start = {**fields, "messages": context.messages, "chat_template_kwargs": variables}
    whole = {**fields, "messages": [*context.messages, *asked.messages]}
    return Continued(msgspec.json.encode(whole), msgspec.json.encode(start))
