"""Batch: what one step computes, in plain integers, so that it can be sent to every worker as it is."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class ScheduledSequence:
    """Compute tokens [start, start + num_tokens) of a sequence.

    block_table: KV blocks of the sequence from token 0 on, enough for start + num_tokens.
    samples: the last of these tokens is the sequence's last, so the step yields the next token.
    arrival, num_preemptions: which life of the sequence this is; results for an earlier one are dropped.
    """

    sequence_id: str
    start: int
    num_tokens: int
    block_table: tuple[int, ...]
    samples: bool
    arrival: int
    num_preemptions: int

    @property
    def end(self) -> int:
        return self.start + self.num_tokens


@dataclass(frozen=True, slots=True)
class Batch:
    """One step. `preempted` lost their blocks while it was planned; they are computed again later."""

    sequences: tuple[ScheduledSequence, ...]
    preempted: tuple[str, ...] = ()

    @property
    def num_tokens(self) -> int:
        return sum(entry.num_tokens for entry in self.sequences)

    def __bool__(self) -> bool:
        return bool(self.sequences)


@dataclass(frozen=True, slots=True)
class TokenResult:
    """The sampled token of one sequence; finish_reason is what the reader of the token decided ("stop", "abort")."""

    token_id: int
    finish_reason: str | None = None
