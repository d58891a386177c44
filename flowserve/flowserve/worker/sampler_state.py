"""SamplerState: one sequence as the sampler knows it."""

from __future__ import annotations

from ..config import MAX_SPECULATIVE_TOKENS
from ..outputs import TokenLogprobs
from ..sampling_params import SamplingParams
from ..structured import GrammarMatcher
from .constraints import BadWords, BadWordTable, Constraint, LogitBias, MinTokens, Penalties
from .ngrams import Drafter


class SamplerState:
    """Tokens of a sequence and what they mean for the choice of the next.

    tokens: prompt and output.  seed: with a token's position it decides the draw.
    end_token_ids: those that may not come before min_tokens.
    bad_words: token sequences that the output must not complete.  grammar: None = unconstrained.
    is_plain: the next token is the most likely one and nothing else is asked, so its logits need not be looked at.
    drafter: guesses the next tokens; None = nobody does.  drafts: its guesses for the step that is being planned.
    prompt_logprobs: gathered chunk by chunk until the first token is sampled; None = not wanted, or taken.
    wants_hidden: the hidden state that the first token is chosen from is wanted.
    """

    __slots__ = (
        "params", "seed", "tokens", "num_prompt_tokens", "grammar", "constraints", "is_plain", "prompt_logprobs",
        "drafter", "drafts", "wants_hidden", "_is_guess",
    )  # fmt: skip

    def __init__(
        self,
        params: SamplingParams,
        seed: int,
        tokens: list[int],
        num_prompt_tokens: int,
        end_token_ids: tuple[int, ...] = (),
        grammar: GrammarMatcher | None = None,
        bad_words: BadWordTable | None = None,
        wants_prompt_logprobs: bool = False,
        drafter: Drafter | None = None,
        wants_hidden: bool = False,
    ) -> None:
        self.params = params
        self.seed = seed
        self.tokens = tokens
        self.num_prompt_tokens = num_prompt_tokens
        self.grammar = grammar
        self.constraints = _constraints(params, tokens, num_prompt_tokens, end_token_ids, bad_words)
        self.prompt_logprobs: list[TokenLogprobs] | None = [] if wants_prompt_logprobs else None
        self.drafter = drafter
        self.wants_hidden = wants_hidden
        self.drafts: list[int] = []
        self._is_guess = False
        self.is_plain = params.is_greedy and not self.constraints and grammar is None and params.logprobs is None

    @property
    def num_output_tokens(self) -> int:
        return len(self.tokens) - self.num_prompt_tokens

    def draft(self) -> int:
        """Guess the next tokens, behind an output that has begun; how many. What a grammar forces is the best guess."""
        if self.drafter is None or self.num_output_tokens == 0:
            return 0
        forced = self.grammar.forced() if self.grammar is not None else []
        self._is_guess = not forced
        self.drafts = forced[:MAX_SPECULATIVE_TOKENS] or self.drafter.draft()
        return len(self.drafts)

    def learn(self, num_drafts: int, num_right: int) -> None:
        """How many of the drafts of a step were right."""
        if self.drafter is not None and self._is_guess:
            self.drafter.learn(num_drafts, num_right)

    def take_prompt_logprobs(self) -> tuple[TokenLogprobs, ...] | None:
        """Those of the whole prompt, once, where they were asked for."""
        if self.prompt_logprobs is None:
            return None
        taken, self.prompt_logprobs = tuple(self.prompt_logprobs), None
        return taken

    def append(self, token_id: int) -> None:
        self.tokens.append(token_id)
        for constraint in self.constraints:
            constraint.append(token_id)


def _constraints(
    params: SamplingParams,
    tokens: list[int],
    num_prompt_tokens: int,
    end_token_ids: tuple[int, ...],
    bad_words: BadWordTable | None,
) -> list[Constraint]:
    """In the order in which vLLM applies them."""
    constraints: list[Constraint] = []
    output = tokens[num_prompt_tokens:]
    if bad_words is not None:
        constraints.append(BadWords(bad_words, output))
    if len(output) < params.min_tokens and end_token_ids:
        constraints.append(MinTokens(params.min_tokens - len(output), end_token_ids))
    if params.logit_bias:
        constraints.append(LogitBias(params.logit_bias))
    if params.has_penalties:
        constraints.append(Penalties(params, tokens, num_prompt_tokens))
    return constraints
