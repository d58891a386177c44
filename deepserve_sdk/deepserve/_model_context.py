"""Contexts of a hosted model: prompt starts that are kept by name."""

from __future__ import annotations

import secrets
from collections.abc import Sequence
from contextlib import suppress
from functools import partial
from typing import Any

from deepserve._model_request import messages_of
from deepserve._query_verb import QueryVerb
from deepserve._stored_contexts import ContextInfo, checked_ttl, delete_context, extend_context
from deepserve._tool import as_tool
from deepserve.errors import ControllerLost, InvalidOption, UnknownContextError
from deepserve.protocol.model_io import ContextInput


class ContextId(str):
    """The name of a context, for `llm.chat(..., context=...)`; OpenAI clients send it as `context_id`.

        with llm.cache(messages) as context:
            llm.chat("hi", context=context)

    A text like any other, so that it can be stored and sent. num_tokens: what the context is long, 0 where it is not
    known. At the end of a `with` or `async with` the context is forgotten.
    """

    num_tokens: int

    def __new__(cls, text: str, num_tokens: int = 0) -> ContextId:
        made = super().__new__(cls, text)
        made.num_tokens = num_tokens
        return made

    @property
    def id(self) -> str:
        """The text alone, as in ContextInfo."""
        return str(self)

    @property
    def delete(self) -> QueryVerb[[], None]:
        """`context.delete()`: forget it now. Raises UnknownContextError; `await context.delete.aio()`."""
        return QueryVerb("context.delete", partial(delete_context, self))

    @property
    def extend(self) -> QueryVerb[[float], ContextInfo]:
        """`context.extend(ttl)`: it lives for so many seconds from now, and after each use.

        Raises InvalidOption, UnknownContextError, ContextExpiredError; `await context.extend.aio(ttl)`.
        """
        return QueryVerb("context.extend", partial(extend_context, self))

    def __enter__(self) -> ContextId:
        return self

    def __exit__(self, *_: object) -> None:
        with suppress(UnknownContextError, ControllerLost):  # it is gone already
            self.delete()

    async def __aenter__(self) -> ContextId:
        return self

    async def __aexit__(self, *_: object) -> None:
        with suppress(UnknownContextError, ControllerLost):
            await self.delete.aio()

    def __reduce__(self) -> tuple[Any, ...]:
        return ContextId, (str(self), self.num_tokens)


def context_of(messages: Any, ttl_s: float, tools: Sequence[Any], continues: Any = None) -> ContextInput:
    """Raises InvalidOption, TypeError for what are no messages."""
    before = checked_id(continues, "llm.cache", tools)
    ttl_s = checked_ttl("llm.cache", ttl_s)
    return ContextInput(f"ctx-{secrets.token_hex(12)}", messages_of(messages), ttl_s, definitions_of(tools), before)


def checked_id(context: Any, verb: str, tools: Sequence[Any]) -> str:
    """The id that a request names, empty for None. Raises InvalidOption."""
    if context is None:
        return ""
    if not isinstance(context, str) or not context:
        raise InvalidOption(f"{verb}: context={context!r} is no id of a context (llm.cache makes one)")
    if tools:
        raise InvalidOption(
            f"{verb}: tools stand at the start of a prompt: give them to the first llm.cache, not beside context"
        )
    return str(context)


def definitions_of(tools: Sequence[Any]) -> list[dict[str, Any]]:
    """In OpenAI's shape."""
    return [tool if isinstance(tool, dict) else as_tool(tool).definition for tool in tools]
