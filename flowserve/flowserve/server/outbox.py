"""Outbox: what a sequence produced and its reader has not taken yet, joined into one piece."""

from __future__ import annotations

from dataclasses import dataclass, field

from ..outputs import SequenceOutput, TokenLogprobs

_LOGPROB_CHARACTERS = 32
"""What one reported probability counts for, in characters of text."""


@dataclass(slots=True)
class Piece:
    """Several steps of one sequence as one. `finish_reason`: "stop" | "length" once it is over, else None.

    token_ids: the new tokens; num_output_tokens: all so far.  prompt_logprobs: with the first of a prompt's pieces.
    num_cached_tokens: of the prompt's.
    """

    text: str = ""
    token_ids: list[int] = field(default_factory=list)
    logprobs: list[TokenLogprobs] = field(default_factory=list)
    prompt_logprobs: tuple[TokenLogprobs, ...] | None = None
    finish_reason: str | None = None
    num_prompt_tokens: int = 0
    num_output_tokens: int = 0
    num_cached_tokens: int = 0


class Outbox:
    """Lives on the event loop. `size` is in characters, for the limit on what a slow reader may leave behind."""

    def __init__(self) -> None:
        self.is_finished = False
        self.size = 0
        self._texts: list[str] = []
        self._piece = Piece()
        self._has_news = False

    def put(self, output: SequenceOutput) -> None:
        piece = self._piece
        if output.text:
            self._texts.append(output.text)
            self.size += len(output.text)
        piece.token_ids.extend(output.token_ids)
        if output.logprobs:
            piece.logprobs.extend(output.logprobs)
            self.size += sum(1 + len(entry.top) for entry in output.logprobs) * _LOGPROB_CHARACTERS
        if output.prompt_logprobs is not None:
            piece.prompt_logprobs = output.prompt_logprobs
        piece.num_prompt_tokens = output.num_prompt_tokens
        piece.num_output_tokens = output.num_output_tokens
        piece.num_cached_tokens = output.num_cached_tokens
        piece.finish_reason = output.finish_reason
        self.is_finished = output.finished
        self._has_news = True

    def take(self) -> Piece | None:
        """What came since the last call; None when nothing did."""
        if not self._has_news:
            return None
        piece = self._piece
        piece.text = "".join(self._texts)
        self._texts, self._piece, self._has_news, self.size = [], Piece(), False, 0
        return piece
