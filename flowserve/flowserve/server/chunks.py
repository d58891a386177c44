"""The JSON of streamed answers, written with what never changes encoded once per request."""

from __future__ import annotations

from typing import Any

import msgspec

from .api_error import ApiError

encode = msgspec.json.encode

DONE = b"data: [DONE]\n\n"


class PromptTokensDetails(msgspec.Struct):
    cached_tokens: int


class Usage(msgspec.Struct):
    prompt_tokens: int
    completion_tokens: int
    total_tokens: int
    prompt_tokens_details: PromptTokensDetails

    @classmethod
    def of(cls, prompt_tokens: int, cached_tokens: int, completion_tokens: int) -> Usage:
        """cached_tokens: those of the prompt whose KV was there already."""
        total_tokens = prompt_tokens + completion_tokens
        return cls(prompt_tokens, completion_tokens, total_tokens, PromptTokensDetails(cached_tokens))


class ChunkWriter:
    """Events of one stream. with_usage: an event with the usage comes last, and the others say null."""

    def __init__(self, head: dict[str, Any], with_usage: bool) -> None:
        self._head = b"data: " + encode(head)[:-1] + b',"choices":['
        self._tail = b'],"usage":null}\n\n' if with_usage else b"]}\n\n"
        self.with_usage = with_usage

    def choice(self, index: int, content: bytes, logprobs: Any = None, finish_reason: str | None = None) -> bytes:
        """`content`: the choice's own field, encoded, such as `"text":"Hello"`."""
        probabilities = b"null" if logprobs is None else encode(logprobs)
        reason = b"null" if finish_reason is None else encode(finish_reason)
        return b'%b{"index":%d,%b,"logprobs":%b,"finish_reason":%b}%b' % (
            *(self._head, index, content, probabilities, reason, self._tail),
        )

    def usage(self, usage: Usage) -> bytes:
        return self._head + b'],"usage":' + encode(usage) + b"}\n\n"


def error_events(error: ApiError) -> bytes:
    return b"data: " + error.body() + b"\n\n" + DONE
