"""One of the answers of an SDK's request while it grows: its text, with tool calls taken out, and what is pending."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import NamedTuple, Protocol

from deepserve.protocol.model_io import Generated, GeneratedDelta, LikelyToken, TokenLogprob, ToolCall
from deepserve_runtime.executors.flowserve_parts import TokenLogprobs, TokenText


class Piece(NamedTuple):
    """What became certain of the output."""

    text: str = ""
    calls: tuple[ToolCall, ...] = ()
    malformed: tuple[str, ...] = ()


class Parser(Protocol):
    def feed(self, text: str) -> Piece: ...

    def finish(self) -> Piece: ...


class GrowingCompletion:
    """parser: None where no tool calls are looked for.  tokens: how single tokens are spelled, where log probabilities
    are asked for."""

    def __init__(self, parser: Parser | None = None, tokens: TokenText | None = None) -> None:
        self._parser = parser
        self._tokens = tokens
        self._text: list[str] = []
        self._calls: list[ToolCall] = []
        self._malformed: list[str] = []
        self._logprobs: list[TokenLogprob] = []
        self._pending_text = ""
        self._pending_calls: list[ToolCall] = []
        self.generated: Generated | None = None
        """Once it is whole."""

    @property
    def has_pending(self) -> bool:
        return bool(self._pending_text or self._pending_calls)

    def add(self, text: str, logprobs: Iterable[TokenLogprobs] = ()) -> None:
        self._take(Piece(text) if self._parser is None else self._parser.feed(text))
        self._logprobs += [self._spelled(entry) for entry in logprobs]

    def complete(self, finish_reason: str, prompt_tokens: int, completion_tokens: int, cached_tokens: int = 0) -> None:
        if self._parser is not None:
            self._take(self._parser.finish())
        self.generated = Generated(
            text="".join(self._text),
            finish_reason="tool_calls" if self._calls else finish_reason,
            prompt_tokens=prompt_tokens,
            completion_tokens=completion_tokens,
            tool_calls=self._calls,
            malformed_calls=self._malformed,
            logprobs=self._logprobs,
            cached_tokens=cached_tokens,
        )

    def take_delta(self) -> GeneratedDelta:
        """What a reader of the stream has not got yet."""
        delta = GeneratedDelta(self._pending_text, self._pending_calls)
        self._pending_text, self._pending_calls = "", []
        return delta

    def _take(self, piece: Piece) -> None:
        self._text.append(piece.text)
        self._pending_text += piece.text
        self._calls += piece.calls
        self._pending_calls += piece.calls
        self._malformed += piece.malformed

    def _spelled(self, entry: TokenLogprobs) -> TokenLogprob:
        assert self._tokens is not None
        text, raw = self._tokens.token(entry.token_id)
        return TokenLogprob(text, entry.logprob, raw, _likely(entry.top, self._tokens))


def _likely(top: Sequence[tuple[int, float]], tokens: TokenText) -> list[LikelyToken]:
    spelled = [(*tokens.token(token_id), logprob) for token_id, logprob in top]
    return [LikelyToken(text, logprob, raw) for text, raw, logprob in spelled]
