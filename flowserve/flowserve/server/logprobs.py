"""Log probabilities in the two shapes that OpenAI's API has."""

from __future__ import annotations

from collections.abc import Sequence

import msgspec

from ..outputs import TokenLogprobs
from .token_text import TokenText


class CompletionLogprobs(msgspec.Struct):
    """Of /v1/completions: lists with one entry per token. text_offset: where each token begins, in characters."""

    text_offset: list[int]
    token_logprobs: list[float | None]
    tokens: list[str]
    top_logprobs: list[dict[str, float] | None]

    def extend(self, other: CompletionLogprobs) -> None:
        for name in self.__struct_fields__:
            getattr(self, name).extend(getattr(other, name))


class TopLogprob(msgspec.Struct):
    token: str
    logprob: float
    bytes: list[int]


class ChatTokenLogprob(msgspec.Struct):
    token: str
    logprob: float
    bytes: list[int]
    top_logprobs: list[TopLogprob]


class ChatLogprobs(msgspec.Struct):
    """Of /v1/chat/completions."""

    content: list[ChatTokenLogprob]
    refusal: None = None


def completion_logprobs(entries: Sequence[TokenLogprobs], tokens: TokenText, offset: int) -> CompletionLogprobs:
    """`offset`: characters of the choice's text before the first of these tokens."""
    logprobs = CompletionLogprobs([], [], [], [])
    for entry in entries:
        text, _ = tokens.token(entry.token_id)
        logprobs.text_offset.append(offset)
        logprobs.token_logprobs.append(entry.logprob)
        logprobs.tokens.append(text)
        top = {tokens.token(token_id)[0]: logprob for token_id, logprob in entry.top}
        # The chosen token is always among them, as with OpenAI: one more than asked for where it was unlikely.
        logprobs.top_logprobs.append({**top, text: entry.logprob})
        offset += len(text)
    return logprobs


def prompt_logprobs(first: int, entries: Sequence[TokenLogprobs], tokens: TokenText) -> CompletionLogprobs:
    """Of an echoed prompt: its first token, which nothing predicts, and the others."""
    text, _ = tokens.token(first)
    logprobs = CompletionLogprobs([0], [None], [text], [None])
    logprobs.extend(completion_logprobs(entries, tokens, len(text)))
    return logprobs


def chat_logprobs(entries: Sequence[TokenLogprobs], tokens: TokenText) -> ChatLogprobs:
    return ChatLogprobs([_chat_token(entry, tokens) for entry in entries])


def _chat_token(entry: TokenLogprobs, tokens: TokenText) -> ChatTokenLogprob:
    text, raw = tokens.token(entry.token_id)
    top = [TopLogprob(*_spelled(token_id, logprob, tokens)) for token_id, logprob in entry.top]
    return ChatTokenLogprob(text, entry.logprob, list(raw), top)


def _spelled(token_id: int, logprob: float, tokens: TokenText) -> tuple[str, float, list[int]]:
    text, raw = tokens.token(token_id)
    return text, logprob, list(raw)
