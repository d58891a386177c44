"""Structured output: a grammar per sequence that says which tokens may come next, by llguidance.

llguidance never raises for a bad grammar or token: it enters an error state. Both are turned into errors here.
What a grammar may cost is bounded by its limits (size, states of the lexer, work of one step): beyond them, an error.
"""

from __future__ import annotations

import json
import threading
from collections import OrderedDict
from typing import Any

import numpy as np
from numpy.typing import NDArray

from .errors import InvalidGrammarError, TokenizerError
from .json_layout import JSON_LAYOUT
from .sampling_params import StructuredOutputsParams
from .tokenizer import Tokenizer

MAX_KEPT = 32
"""Compiled grammars that are kept: an agent asks with the same schema again and again."""


class GrammarCompiler:
    """Compiles grammars for one tokenizer, in any thread.

    A grammar can take a second, and so does the vocabulary, which is read with the first. llguidance lets other threads
    run meanwhile, but not while it reads the vocabulary.
    """

    def __init__(self, tokenizer: Tokenizer, vocab_size: int, eos_token_ids: tuple[int, ...]) -> None:
        self._tokenizer = tokenizer
        self._vocab_size = vocab_size
        self._eos_token_ids = eos_token_ids
        self._lock = threading.Lock()
        self._built: Any = None
        self._kept: OrderedDict[str, GrammarMatcher] = OrderedDict()

    def compile(self, params: StructuredOutputsParams) -> GrammarMatcher:
        """Raises InvalidGrammarError with llguidance's words; TokenizerError."""
        grammar = _grammar_text(params)
        with self._lock:
            tokenizer = self._ll_tokenizer()
            if (matcher := self._kept.get(grammar)) is not None:
                self._kept.move_to_end(grammar)
                return matcher
        matcher = _compile(grammar, tokenizer)
        with self._lock:
            self._kept[grammar] = matcher
            if len(self._kept) > MAX_KEPT:
                self._kept.popitem(last=False)
        return matcher

    def _ll_tokenizer(self) -> Any:
        if self._built is None:
            from llguidance import LLTokenizer

            if not self._eos_token_ids:
                raise TokenizerError("structured outputs need an end-of-sequence token; the model folder names none")
            try:
                # llguidance takes ids in the model's vocabulary, which may be padded beyond the tokenizer's.
                built = LLTokenizer(
                    self._tokenizer.to_json(),
                    n_vocab=max(self._vocab_size, self._tokenizer.vocab_size),
                    eos_token=list(self._eos_token_ids),
                    slices=[],
                )
                # In two calls, between which other threads get their turn.
                self._built = built.with_slices(LLTokenizer.general_slices())
            except ValueError as error:
                raise TokenizerError(f"the tokenizer cannot be used for structured outputs: {error}") from error
        return self._built


class GrammarMatcher:
    """Where one sequence stands in its grammar."""

    def __init__(self, matcher: Any) -> None:
        self._matcher = matcher

    def copy(self) -> GrammarMatcher:
        """Another sequence at the same place."""
        return GrammarMatcher(self._matcher.deep_copy())

    @property
    def is_done(self) -> bool:
        """The grammar is satisfied and nothing but the end may follow, or the end has come."""
        return bool(self._matcher.is_stopped()) and not self._matcher.is_error()

    @property
    def error(self) -> str | None:
        return _error_of(self._matcher) if self._matcher.is_error() else None

    def mask(self, logits: NDArray[np.float32]) -> None:
        """Set the logits [V] of tokens that may not come next to -inf, in place. After an error, nothing."""
        if self._matcher.is_error():
            return
        bits = np.frombuffer(self._matcher.compute_bitmask(), dtype=np.uint8)
        allowed = np.unpackbits(bits, count=min(len(bits) * 8, logits.shape[0]), bitorder="little").view(np.bool_)
        np.putmask(logits[: len(allowed)], ~allowed, np.float32(-np.inf))
        logits[len(allowed) :] = -np.inf

    def forced(self) -> list[int]:
        """Tokens that nothing but may come next, as far as that is known; [] for none, and after an error."""
        if self._matcher.is_error() or self._matcher.is_stopped():
            return []
        return list(self._matcher.compute_ff_tokens())

    def allows(self, token_id: int) -> bool:
        """Whether the token may come next; cheaper than the mask. After an error, anything."""
        return token_id < 0 or self._matcher.is_error() or self._matcher.validate_tokens([token_id]) == 1

    def accept(self, token_id: int) -> None:
        self._matcher.consume_token(token_id)


def _compile(grammar: str, tokenizer: Any) -> GrammarMatcher:
    from llguidance import LLMatcher, LLParserLimits

    matcher = LLMatcher(tokenizer, grammar, log_level=0, limits=LLParserLimits(verbose_errors=False))
    if not matcher.is_error():
        matcher.compute_bitmask()  # tells whether anything at all may begin an output
    if matcher.is_error():
        raise InvalidGrammarError(f"structured_outputs cannot be compiled: {_error_of(matcher)}")
    return GrammarMatcher(matcher)


def _error_of(matcher: Any) -> str:
    """llguidance's words without its state, which can be as long as the grammar."""
    text = str(matcher.get_error()).partition("\n<")[0].rstrip()
    return "no output fits the grammar" if text.startswith("NoExtension") else text


def _grammar_text(params: StructuredOutputsParams) -> str:
    from llguidance import LLMatcher

    if params.json is not None:
        return _json_grammar(params.json)
    if params.json_object:
        return _json_grammar({"type": "object"})
    if params.regex is not None:
        return str(LLMatcher.grammar_from_regex(params.regex))
    if params.choice is not None:
        quoted = (json.dumps(text, ensure_ascii=False) for text in params.choice)
        # As one terminal: its lexer takes thousands of them, its parser two thousand.
        return str(LLMatcher.grammar_from_lark("start: CHOICE\nCHOICE: " + " | ".join(quoted)))
    return str(LLMatcher.grammar_from_lark(params.grammar or ""))


def _json_grammar(schema: dict[str, Any] | str) -> str:
    from llguidance import LLMatcher

    try:
        parsed = json.loads(schema) if isinstance(schema, str) else schema
        text = json.dumps(parsed)
    except (TypeError, ValueError, RecursionError) as error:
        raise InvalidGrammarError(f"structured_outputs.json is not a JSON schema: {error}") from error
    if not isinstance(parsed, dict | bool):
        raise InvalidGrammarError(f"structured_outputs.json must be a schema object, got {type(parsed).__name__}")
    layout: Any = JSON_LAYOUT
    try:
        return str(LLMatcher.grammar_from_json_schema(text, overrides=layout))
    except ValueError as error:  # nested more deeply than it reads
        raise InvalidGrammarError(f"structured_outputs.json cannot be compiled: {error}") from error
