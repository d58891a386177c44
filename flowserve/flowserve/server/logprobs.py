"""Log probabilities in the two shapes that OpenAI's API has."""

from __future__ import annotations

import codecs
from collections.abc import Sequence

import msgspec

from ..outputs import TokenLogprobs
from .token_text import TokenText


class CompletionLogprobs(msgspec.Struct):
    """Of /v1/completions: lists with one entry per token. text_offset: the character of the text in which each begins.

    A token that is no text alone, such as half a character, is spelled by its bytes, as OpenAI does ("bytes:\\xe4"):
    U+FFFD would be the name of many.
    """

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


class TextPlace:
    """Where the text stands behind the bytes that were passed by, of which some may be no whole character yet."""

    def __init__(self) -> None:
        self._offset = 0
        self._decoder = codecs.getincrementaldecoder("utf-8")("replace")

    def pass_by(self, raw: bytes) -> int:
        """The character in which these bytes begin."""
        was_open = self._is_open
        begun = self._decoder.decode(raw[:1])
        is_broken = was_open and len(begun) + self._is_open == 2  # they do not go on with it: it becomes U+FFFD
        begin = self._offset + is_broken
        self._offset += len(begun) + len(self._decoder.decode(raw[1:]))
        return begin

    @property
    def _is_open(self) -> bool:
        return bool(self._decoder.getstate()[0])


def completion_logprobs(entries: Sequence[TokenLogprobs], tokens: TokenText, place: TextPlace) -> CompletionLogprobs:
    """`place`: where the first of them begins; afterwards, where the text behind them does."""
    logprobs = CompletionLogprobs([], [], [], [])
    for entry in entries:
        token = _named(entry.token_id, tokens)
        logprobs.text_offset.append(place.pass_by(tokens.token(entry.token_id)[1]))
        logprobs.token_logprobs.append(entry.logprob)
        logprobs.tokens.append(token)
        top = {_named(token_id, tokens): logprob for token_id, logprob in entry.top}
        # The chosen token is always among them, as with OpenAI: one more than asked for where it was unlikely.
        logprobs.top_logprobs.append({**top, token: entry.logprob})
    return logprobs


def prompt_logprobs(
    first: int, entries: Sequence[TokenLogprobs], tokens: TokenText, place: TextPlace
) -> CompletionLogprobs:
    """The same of an echoed prompt: of its first token, which nothing predicts, and of the others."""
    begin = place.pass_by(tokens.token(first)[1])
    logprobs = CompletionLogprobs([begin], [None], [_named(first, tokens)], [None])
    logprobs.extend(completion_logprobs(entries, tokens, place))
    return logprobs


def _named(token_id: int, tokens: TokenText) -> str:
    text, raw = tokens.token(token_id)
    return text if text.encode() == raw else "bytes:" + "".join(f"\\x{byte:02x}" for byte in raw)


def chat_logprobs(entries: Sequence[TokenLogprobs], tokens: TokenText) -> ChatLogprobs:
    return ChatLogprobs([_chat_token(entry, tokens) for entry in entries])


def _chat_token(entry: TokenLogprobs, tokens: TokenText) -> ChatTokenLogprob:
    text, raw = tokens.token(entry.token_id)
    top = [TopLogprob(*_spelled(token_id, logprob, tokens)) for token_id, logprob in entry.top]
    return ChatTokenLogprob(text, entry.logprob, list(raw), top)


def _spelled(token_id: int, logprob: float, tokens: TokenText) -> tuple[str, float, list[int]]:
    text, raw = tokens.token(token_id)
    return text, logprob, list(raw)
