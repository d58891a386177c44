"""What comes out of the engine (SequenceOutput) and out of LLM (RequestOutput)."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import NamedTuple

from .rtc.stats import CacheStats


@dataclass(frozen=True, slots=True)
class TokenLogprobs:
    """Natural-log probabilities at one step, from the raw logits.

    token_id, logprob: of the chosen token.  top: (token id, logprob) of the most likely tokens, best first.
    """

    token_id: int
    logprob: float
    top: tuple[tuple[int, float], ...]


class SequenceOutput(NamedTuple):  # made for every token: a frozen dataclass takes five times as long
    """What one step added to one sequence. `sequence_id` is what was added to the engine; see `index`.

    token_ids: the new tokens.  text: the new text; may be empty while a character or a stop string is incomplete.
    index: which of the prompt's `n` completions.  prompt_logprobs: of all prompt tokens but the first, with the first
    output of the first completion.
    finish_reason: "stop" | "length" | "abort" | "deadline" once finished, else None.  error: why an "abort" was not
    asked for.  is_request_fault: because of what the request asks for (a grammar that nothing fits), not of the engine.
    num_cached_tokens: of the prompt, those whose KV was there already.
    hidden: the model's state behind the prompt (d numbers, after the final norm), with the first output, where wanted.
    """

    sequence_id: str
    token_ids: tuple[int, ...]
    text: str
    finished: bool
    finish_reason: str | None
    num_prompt_tokens: int
    num_output_tokens: int
    logprobs: tuple[TokenLogprobs, ...] | None = None
    error: str | None = None
    index: int = 0  # type: ignore[assignment]  # a tuple has a method of this name, which nobody needs here
    prompt_logprobs: tuple[TokenLogprobs, ...] | None = None
    is_request_fault: bool = False
    num_cached_tokens: int = 0
    hidden: list[float] | None = None


@dataclass(slots=True)
class CompletionOutput:
    """One completion of a prompt; `logprobs` has one entry per token where SamplingParams asked for it.

    error: why it ended with the finish_reason "abort".
    """

    index: int = 0
    text: str = ""
    token_ids: list[int] = field(default_factory=list)
    finish_reason: str | None = None
    logprobs: list[TokenLogprobs] | None = None
    error: str | None = None


@dataclass(slots=True)
class RequestOutput:
    """One prompt and its `n` completions. `prompt` is None when token ids were given.

    prompt_logprobs: one entry per prompt token where SamplingParams asked for it; None for the first token.
    num_cached_tokens: prompt tokens whose KV was there when the first completion began.
    """

    request_id: str
    prompt: str | None
    prompt_token_ids: list[int]
    outputs: list[CompletionOutput]
    finished: bool = False
    prompt_logprobs: list[TokenLogprobs | None] | None = None
    num_cached_tokens: int = 0


@dataclass(frozen=True, slots=True)
class EngineStats:
    """Counts at one moment; blocks are KV cache blocks of `block_size` tokens.

    free_blocks: can be handed out now, including cached ones that no sequence uses.
    prefix_query_tokens, prefix_hit_tokens: prompt tokens of sequences that began, and those whose KV was there already;
    once for each sequence.
    num_draft_tokens, num_accepted_tokens: guesses of speculation that were verified, and those that were right.
    sleep_level: 0 = awake (`Engine.sleep`).
    cache: what the KV cache has done.  pinned_blocks: those that the `num_contexts` living contexts keep.
    """

    running: int
    waiting: int
    free_blocks: int
    total_blocks: int
    cached_blocks: int
    block_size: int
    num_preemptions: int
    num_steps: int
    prefix_query_tokens: int
    prefix_hit_tokens: int
    num_draft_tokens: int = 0
    num_accepted_tokens: int = 0
    cache: CacheStats = field(default_factory=CacheStats)
    pinned_blocks: int = 0
    num_contexts: int = 0
    sleep_level: int = 0
