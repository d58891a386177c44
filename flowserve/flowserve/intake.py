"""Intake: a request checked against the model, and what its sequences are made of.

Everything that can be wrong with a request is found here, before anything of it is queued.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace

from .config import EngineConfig
from .detokenizer import DetokenizerFactory
from .errors import InvalidPromptError, InvalidRequestError, InvalidSamplingParamsError
from .params_compiler import Compiled, ParamsCompiler
from .resume import replay
from .sampling_params import SamplingParams
from .sequence_text import NoText, SequenceText, Text
from .tokenizer import Tokenizer, check_fits_context
from .worker.ngrams import Drafter
from .worker.sampler import derived_seed
from .worker.sampler_state import SamplerState


@dataclass(frozen=True, slots=True)
class Prepared:
    """A request that can run. max_tokens: at most, with what the context leaves.  end_token_ids: those that end it.

    output_ids: what it has put out already, elsewhere.  wants_hidden: see SamplerState.
    """

    prompt_ids: list[int]
    output_ids: list[int]
    params: SamplingParams
    max_tokens: int
    end_token_ids: frozenset[int]
    compiled: Compiled
    vocab_size: int
    detokenizers: DetokenizerFactory
    config: EngineConfig
    wants_hidden: bool = False

    def sampler_state(self, seed: int, index: int = 0) -> SamplerState:
        """Of one of the `n` completions; `seed` is that of the request."""
        ends = tuple(sorted(token_id for token_id in self.end_token_ids if token_id < self.vocab_size))
        tokens = self.prompt_ids + self.output_ids
        drafter = None
        if self.config.speculative_tokens:
            drafter = Drafter(tokens, self.config.speculative_tokens, self.config.speculative_ngram)
        return SamplerState(
            self.params,
            derived_seed(seed, index),
            tokens,
            len(self.prompt_ids),
            ends,
            self.compiled.grammar.copy() if self.compiled.grammar is not None else None,
            self.compiled.bad_words,
            wants_prompt_logprobs=index == 0 and self.params.prompt_logprobs is not None,
            drafter=drafter,
            wants_hidden=index == 0 and self.wants_hidden,
        )

    def replay(self, state: SamplerState, text: Text) -> str | None:
        """See `resume.replay`: of a completion's fresh state and text, which then are where `output_ids` leave off."""
        return replay(self.output_ids, text, state.grammar, self.end_token_ids, self.max_tokens)

    def text(self) -> Text:
        params = self.params
        if not params.detokenize:
            return NoText()
        detokenizer = self.detokenizers.make(self.prompt_ids, params.skip_special_tokens)
        return SequenceText(detokenizer, self.compiled.stop, params.include_stop_str_in_output, params.min_tokens)


class Intake:
    """Knows the model's limits and its tokenizer."""

    def __init__(
        self,
        tokenizer: Tokenizer,
        compiler: ParamsCompiler,
        vocab_size: int,
        max_model_len: int,
        config: EngineConfig,
    ) -> None:
        self._config = config
        self._tokenizer = tokenizer
        self._vocab_size = vocab_size
        self._max_model_len = max_model_len
        self._compiler = compiler
        self._detokenizers = DetokenizerFactory(tokenizer)

    def prepare(
        self,
        prompt_ids: Sequence[int],
        params: SamplingParams,
        compiled: Compiled | None = None,
        output_ids: Sequence[Sequence[int]] = (),
        wants_hidden: bool = False,
    ) -> list[Prepared]:
        """One for each of the n completions; `output_ids` of the first of them, what they have put out before.

        Raises PromptTooLongError, InvalidPromptError, InvalidSamplingParamsError, InvalidGrammarError, or
        InvalidRequestError for outputs of more completions than there are.
        """
        if not isinstance(params, SamplingParams):
            raise InvalidSamplingParamsError(f"params must be SamplingParams, got a {type(params).__name__}")
        self._check_prompt(prompt_ids, wants_hidden)
        for tokens in output_ids:
            self._check_tokens(tokens)
        if any(output_ids[params.n :]):
            raise InvalidRequestError(
                f"there are output_ids of {len(output_ids)} completions, and params.n is {params.n}"
            )
        self._check_token_ids(params)
        left = max(self._max_model_len - len(prompt_ids), 1)
        eos = () if params.ignore_eos else self._tokenizer.eos_token_ids
        first = Prepared(
            prompt_ids=list(prompt_ids),
            output_ids=[],
            params=params,
            max_tokens=left if params.max_tokens is None else min(params.max_tokens, left),
            end_token_ids=frozenset((*eos, *params.stop_token_ids)),
            compiled=compiled or self._compiler.compile(params),
            vocab_size=self._vocab_size,
            detokenizers=self._detokenizers,
            config=self._config,
            wants_hidden=wants_hidden,
        )
        missing: list[Sequence[int]] = [()] * (params.n - len(output_ids))
        return [replace(first, output_ids=list(tokens)) for tokens in (*output_ids[: params.n], *missing)]

    def _check_prompt(self, prompt_ids: Sequence[int], wants_hidden: bool) -> None:
        """The state behind a prompt that takes all of the context can be had, though nothing can follow."""
        if not prompt_ids:
            raise InvalidPromptError("the prompt is empty")
        if not (wants_hidden and len(prompt_ids) == self._max_model_len):
            check_fits_context(len(prompt_ids), self._max_model_len)
        self._check_tokens(prompt_ids)

    def _check_tokens(self, token_ids: Sequence[int]) -> None:
        vocab_size = self._vocab_size
        for token_id in token_ids:
            if not isinstance(token_id, int) or not 0 <= token_id < vocab_size:
                raise InvalidPromptError(f"token id {token_id!r} is not in the vocabulary of {vocab_size}")

    def _check_token_ids(self, params: SamplingParams) -> None:
        for name, token_ids in (("logit_bias", params.logit_bias or ()), ("stop_token_ids", params.stop_token_ids)):
            for token_id in token_ids:
                if token_id >= self._vocab_size:
                    raise InvalidSamplingParamsError(
                        f"{name} names the token {token_id}, which is not in the vocabulary of {self._vocab_size}"
                    )


def check_turn(priority: int, deadline_s: float | None, cache_salt: str | None) -> None:
    """Raises InvalidRequestError."""
    if cache_salt is not None and (not isinstance(cache_salt, str) or not cache_salt):
        raise InvalidRequestError(f"cache_salt must be a string that is not empty, got {cache_salt!r}")
    if not isinstance(priority, int):
        raise InvalidRequestError(f"priority must be an integer, got {priority!r}")
    if deadline_s is not None and (not isinstance(deadline_s, int | float) or math.isnan(deadline_s)):
        raise InvalidRequestError(f"deadline_s must be a time in seconds, got {deadline_s!r}")
