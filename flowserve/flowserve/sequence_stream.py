"""SequenceStream: how the tokens of one sequence become what its reader gets."""

from __future__ import annotations

import logging

from .outputs import SequenceOutput
from .scheduling.batch import TokenResult
from .sequence import Sequence
from .sequence_text import NoText, SequenceText
from .worker.sampler import SampledToken

_log = logging.getLogger(__name__)


class SequenceStream:
    """What the engine keeps of a sequence beside the scheduler's counts: its text, and what ends it.

    request_id, index: which completion of which prompt its reader takes it for.  preserve_as: the context that its
    tokens become when it ends, as `Engine.preserve` was told: id, time to live in seconds, with the output or without.
    For each step that gave tokens: `read` them, let the scheduler count them, take the `output`.
    """

    __slots__ = (
        "_end_token_ids",
        "_error",
        "_is_request_fault",
        "_text",
        "index",
        "preserve_as",
        "request_id",
        "sequence",
    )

    def __init__(
        self,
        sequence: Sequence,
        text: SequenceText | NoText,
        end_token_ids: frozenset[int],
        request_id: str,
        index: int = 0,
    ) -> None:
        self.sequence = sequence
        self.request_id = request_id
        self.index = index
        self.preserve_as: tuple[str, float, bool] | None = None
        self._text = text
        self._end_token_ids = end_token_ids
        self._error: str | None = None
        self._is_request_fault = False

    def read(self, tokens: list[SampledToken]) -> TokenResult:
        """Give tokens to the text up to one that ends the sequence, if any does."""
        if len(tokens) == 1:
            return TokenResult((tokens[0].token_id,), self._read_token(tokens[0]))
        for count, token in enumerate(tokens, 1):
            if (reason := self._read_token(token)) is not None:
                return TokenResult(tuple(each.token_id for each in tokens[:count]), reason)
        return TokenResult(tuple(each.token_id for each in tokens))

    def fail(self, error: str) -> None:
        """Say in the last output why the sequence ended."""
        self._error = error

    def output(self, tokens: list[SampledToken], token_ids: tuple[int, ...] = ()) -> SequenceOutput:
        """What became of the sequence: the read ones of `tokens`, `token_ids`, or its end without any."""
        sequence = self.sequence
        is_finished = sequence.is_finished
        reason = sequence.finish_reason
        if is_finished and self._error is None:  # a text with an error is not asked for its rest
            try:
                self._text.finish()
            except Exception as error:  # the sequence is out of the books: only its reader is told
                _log.exception("the text of %r could not be ended", self.request_id)
                self._error, reason = f"the text could not be ended: {type(error).__name__}: {error}", "abort"
        logprobs = None
        if tokens and tokens[0].logprobs is not None:
            logprobs = tuple(token.logprobs for token in tokens[: len(token_ids)] if token.logprobs is not None)
        return SequenceOutput(
            self.request_id,
            token_ids,
            self._text.take(),
            is_finished,
            reason,
            sequence.num_prompt_tokens,
            sequence.num_output_tokens,
            logprobs,
            self._error,
            self.index,
            tokens[0].prompt_logprobs if tokens else None,
            self._is_request_fault,
            sequence.num_cached_tokens,
            tokens[0].hidden if tokens else None,
        )

    def _read_token(self, token: SampledToken) -> str | None:
        if token.error is not None:
            self._error, self._is_request_fault = token.error, token.is_request_fault
            return "abort"
        if token.token_id in self._end_token_ids or self._text.push(token.token_id) or token.grammar_done:
            return "stop"
        return None
