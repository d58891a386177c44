"""One request to a hosted model: what an agent's driver and `Model` ask of it, and how the client carries it.

`ModelRequests` is all that an agent knows of a model, so that a scripted one can take its place in tests.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterator
from typing import Any, Protocol

from deepserve.protocol.model_io import ChatInput, CompletionInput, ContextInput, Generated, GeneratedDelta

ModelInput = ChatInput | CompletionInput


class GenerationStream(Protocol):
    """Deltas as they come; `generated` is the whole once they ended. Closing early cancels the request."""

    @property
    def generated(self) -> Generated | None: ...
    def __iter__(self) -> Iterator[GeneratedDelta]: ...
    def close(self) -> None: ...


class AsyncGenerationStream(Protocol):
    @property
    def generated(self) -> Generated | None: ...
    def __aiter__(self) -> AsyncIterator[GeneratedDelta]: ...
    async def aclose(self) -> None: ...


class ModelRequests(Protocol):
    """verb: what the user called (`llm.chat`), for the text of errors. context_id: of a context that a chat continues,
    empty for none."""

    def ask(self, value: ModelInput, verb: str, context_id: str = "") -> Generated: ...
    async def ask_aio(self, value: ModelInput, verb: str, context_id: str = "") -> Generated: ...
    def stream(self, value: ModelInput, verb: str, context_id: str = "") -> GenerationStream: ...
    def stream_aio(self, value: ModelInput, verb: str, context_id: str = "") -> AsyncGenerationStream: ...
    def cache(self, value: ContextInput, verb: str) -> Generated: ...
    async def cache_aio(self, value: ContextInput, verb: str) -> Generated: ...


def messages_of(prompt: Any) -> list[dict[str, Any]]:
    """`prompt` as OpenAI's messages; text is one user message. Raises TypeError for anything else."""
    if isinstance(prompt, str):
        return [{"role": "user", "content": prompt}]
    if not isinstance(prompt, list | tuple) or not prompt:
        raise TypeError(f"messages must be text or a list of at least one message, not {prompt!r}")
    for index, message in enumerate(prompt):
        if not isinstance(message, dict) or not isinstance(message.get("role"), str):
            raise TypeError(f"message {index} must be a dict with a role, such as {{'role': 'user', 'content': '...'}}")
    return [dict(message) for message in prompt]
