"""Contexts of a hosted model: prompt starts that are kept by name."""

from __future__ import annotations

import secrets
from collections.abc import Sequence
from typing import Any

from deepserve._model_request import messages_of
from deepserve._tool import as_tool
from deepserve.errors import InvalidOption
from deepserve.protocol.model_io import ContextInput


class ContextId(str):
    """The name of a context, for `llm.chat(..., context=...)`; OpenAI clients send it as `context_id`.

    A text like any other, so that it can be stored and sent. num_tokens: what the context is long, 0 where it is not
    known.
    """

    num_tokens: int

    def __new__(cls, text: str, num_tokens: int = 0) -> ContextId:
        made = super().__new__(cls, text)
        made.num_tokens = num_tokens
        return made

    def __reduce__(self) -> tuple[Any, ...]:
        return ContextId, (str(self), self.num_tokens)


def context_of(messages: Any, ttl_s: float, tools: Sequence[Any]) -> ContextInput:
    """Raises InvalidOption, TypeError for what are no messages."""
    if isinstance(ttl_s, bool) or not isinstance(ttl_s, int | float) or not 0 < ttl_s < float("inf"):
        raise InvalidOption(f"llm.cache: ttl={ttl_s!r} must be a number of seconds above 0")
    return ContextInput(f"ctx-{secrets.token_hex(12)}", messages_of(messages), float(ttl_s), definitions_of(tools))


def checked_id(context: Any, verb: str, tools: Sequence[Any]) -> str:
    """The id that a request names, empty for None. Raises InvalidOption."""
    if context is None:
        return ""
    if not isinstance(context, str) or not context:
        raise InvalidOption(f"{verb}: context={context!r} is no id of a context (llm.cache makes one)")
    if tools:
        raise InvalidOption(f"{verb}: tools stand at the start of a prompt: give them to llm.cache, not beside context")
    return str(context)


def definitions_of(tools: Sequence[Any]) -> list[dict[str, Any]]:
    """In OpenAI's shape."""
    return [tool if isinstance(tool, dict) else as_tool(tool).definition for tool in tools]
