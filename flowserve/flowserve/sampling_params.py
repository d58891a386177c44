"""What a user may ask of sampling. Names and defaults follow vLLM, so its users know them."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from .errors import InvalidSamplingParamsError


@dataclass(frozen=True)
class StructuredOutputsParams:
    """Constrain the output; exactly one field is given. Compiled when the sequence is added (`InvalidGrammarError`).

    json: JSON schema, as a dict or as text.  regex: the whole output matches it.
    choice: the output is one of these strings.  grammar: Lark syntax as llguidance reads it.
    json_object: True = any JSON object.
    """

    json: dict[str, Any] | str | None = None
    regex: str | None = None
    choice: list[str] | None = None
    grammar: str | None = None
    json_object: bool | None = None

    def __post_init__(self) -> None:
        if not isinstance(self.json_object, bool | None):
            raise InvalidSamplingParamsError(f"structured_outputs.json_object must be True, got {self.json_object!r}")
        given = [name for name in _KINDS if getattr(self, name) not in (None, False)]
        if len(given) != 1:
            raise InvalidSamplingParamsError(
                f"structured_outputs needs exactly one of {', '.join(_KINDS)}; got {', '.join(given) or 'none'}"
            )
        if not isinstance(self.choice, list | tuple | None):
            raise InvalidSamplingParamsError(
                f"structured_outputs.choice must be a list of strings, got {self.choice!r}"
            )
        if self.choice is not None and (not self.choice or not all(isinstance(c, str) and c for c in self.choice)):
            raise InvalidSamplingParamsError("structured_outputs.choice must list one or more non-empty strings")
        for name in ("regex", "grammar"):
            if not isinstance(getattr(self, name), str | None):
                raise InvalidSamplingParamsError(f"structured_outputs.{name} must be a string")
        if not isinstance(self.json, dict | str | None):
            raise InvalidSamplingParamsError("structured_outputs.json must be a JSON schema as a dict or a string")


@dataclass(frozen=True)
class SamplingParams:
    """How to pick tokens and when to stop. Raises `InvalidSamplingParamsError` naming the field.

    n: completions of the prompt, each with a seed of its own made of `seed` and its index.
    max_tokens: new tokens at most; None = what is left of the context.
    temperature: 0 = greedy, at most 1e6.  top_k: 0 or -1 = off.
    top_p, min_p: after temperature, probabilities in [0, 1].
    seed: same seed, prompt and parameters give the same tokens, whatever else runs; None = a fresh one.
    stop: strings that end the output and are not part of it, unless include_stop_str_in_output.
    At most 10,000 strings of 100,000 characters in all, as for bad_words.
    stop_token_ids: end it, their text is not part of it.  ignore_eos: go on to max_tokens.
    min_tokens: no end of sequence, stop token or stop string before so many tokens.
    logprobs: report the n most likely tokens of each step and the chosen one, from the raw logits; None = off.
    prompt_logprobs: the same for each token of the prompt but the first, which nothing predicts.
    repetition_penalty: > 1 discourages tokens of prompt and output, 0.01 to 100.
    presence_penalty, frequency_penalty: those of the output, -2 to 2.
    logit_bias: added to the logits of these token ids, in [-100, 100].
    bad_words: strings that the output must not complete, each as the tokenizer writes it, with and without a space
    before it.  detokenize: False leaves the text empty and saves its making.
    """

    n: int = 1
    max_tokens: int | None = None
    temperature: float = 1.0
    top_k: int = 0
    top_p: float = 1.0
    min_p: float = 0.0
    seed: int | None = None
    stop: str | list[str] | tuple[str, ...] = ()
    stop_token_ids: list[int] | tuple[int, ...] = ()
    ignore_eos: bool = False
    min_tokens: int = 0
    logprobs: int | None = None
    prompt_logprobs: int | None = None
    repetition_penalty: float = 1.0
    presence_penalty: float = 0.0
    frequency_penalty: float = 0.0
    logit_bias: Mapping[int, float] | None = None
    bad_words: list[str] | tuple[str, ...] = ()
    include_stop_str_in_output: bool = False
    skip_special_tokens: bool = True
    detokenize: bool = True
    structured_outputs: StructuredOutputsParams | None = None

    def __post_init__(self) -> None:
        for name in ("stop", "stop_token_ids", "bad_words"):
            object.__setattr__(self, name, _listed(name, getattr(self, name)))
        object.__setattr__(self, "logit_bias", _plain_bias(self.logit_bias))
        self._check_types()
        self._check_ranges()
        self._check_pairs()

    @property
    def is_greedy(self) -> bool:
        return self.temperature == 0.0

    @property
    def has_penalties(self) -> bool:
        return self.repetition_penalty != 1.0 or self.presence_penalty != 0.0 or self.frequency_penalty != 0.0

    def _check_types(self) -> None:
        for name in ("max_tokens", "seed", "logprobs", "prompt_logprobs"):
            value = getattr(self, name)
            if value is not None and not _is_int(value):
                raise InvalidSamplingParamsError(f"{name} must be an integer or None, got {value!r}")
        for name in ("n", "top_k", "min_tokens"):
            if not _is_int(getattr(self, name)):
                raise InvalidSamplingParamsError(f"{name} must be an integer, got {getattr(self, name)!r}")
        for name in _FLOATS:
            value = getattr(self, name)
            if isinstance(value, bool) or not isinstance(value, int | float) or not _is_finite(value):
                raise InvalidSamplingParamsError(f"{name} must be a finite number, got {value!r}")
        for name in ("stop", "bad_words"):
            for text in getattr(self, name):
                if not isinstance(text, str) or not text.strip(_NO_WORD[name]):
                    raise InvalidSamplingParamsError(f"{name} must hold non-empty strings, got {text!r}")
            self._check_size(name, getattr(self, name))
        if not isinstance(self.structured_outputs, StructuredOutputsParams | None):
            raise InvalidSamplingParamsError(
                f"structured_outputs must be StructuredOutputsParams, got a {type(self.structured_outputs).__name__}"
            )
        for name in ("include_stop_str_in_output", "skip_special_tokens", "detokenize", "ignore_eos"):
            if not isinstance(getattr(self, name), bool):
                raise InvalidSamplingParamsError(f"{name} must be True or False, got {getattr(self, name)!r}")
        if not all(_is_int(token_id) and token_id >= 0 for token_id in self.stop_token_ids):
            raise InvalidSamplingParamsError(f"stop_token_ids must hold token ids, got {list(self.stop_token_ids)!r}")

    @staticmethod
    def _check_size(name: str, texts: tuple[str, ...]) -> None:
        """What is looked for in an output is kept as long as the output is made, and longer."""
        if len(texts) > MAX_TEXTS:
            raise InvalidSamplingParamsError(f"{name} may hold {MAX_TEXTS} strings at most, got {len(texts)}")
        if (num_characters := sum(map(len, texts))) > MAX_CHARACTERS:
            raise InvalidSamplingParamsError(
                f"{name} may hold {MAX_CHARACTERS} characters at most in all its strings, got {num_characters}"
            )

    def _check_ranges(self) -> None:
        rules = (
            ("n", 1 <= self.n <= MAX_N, f"1 to {MAX_N}"),
            ("max_tokens", self.max_tokens is None or self.max_tokens >= 1, "at least 1"),
            ("temperature", 0.0 <= self.temperature <= MAX_TEMPERATURE, f"0 to {MAX_TEMPERATURE:g}"),
            ("top_k", self.top_k >= -1, "-1, 0 (both off) or more"),
            ("top_p", 0.0 < self.top_p <= 1.0, "in (0, 1]"),
            ("min_p", 0.0 <= self.min_p <= 1.0, "in [0, 1]"),
            ("min_tokens", self.min_tokens >= 0, "0 or more"),
            ("logprobs", self.logprobs is None or 0 <= self.logprobs <= MAX_LOGPROBS, f"0 to {MAX_LOGPROBS}"),
            (
                "prompt_logprobs",
                self.prompt_logprobs is None or 0 <= self.prompt_logprobs <= MAX_LOGPROBS,
                f"0 to {MAX_LOGPROBS}",
            ),
            ("repetition_penalty", 1 / MAX_REPETITION <= self.repetition_penalty <= MAX_REPETITION, "0.01 to 100"),
            ("presence_penalty", -2.0 <= self.presence_penalty <= 2.0, "in [-2, 2]"),
            ("frequency_penalty", -2.0 <= self.frequency_penalty <= 2.0, "in [-2, 2]"),
        )
        for name, holds, rule in rules:
            if not holds:
                raise InvalidSamplingParamsError(f"{name} must be {rule}, got {getattr(self, name)!r}")

    def _check_pairs(self) -> None:
        if self.max_tokens is not None and self.min_tokens > self.max_tokens:
            raise InvalidSamplingParamsError(f"min_tokens {self.min_tokens} is more than max_tokens {self.max_tokens}")
        if self.structured_outputs is not None and self.min_tokens:
            raise InvalidSamplingParamsError("min_tokens cannot go with structured_outputs: the grammar sets the end")
        if self.n > 1 and self.is_greedy:
            raise InvalidSamplingParamsError(
                f"n {self.n} cannot go with temperature 0: all would be the same; set a higher one"
            )
        if self.stop and not self.detokenize:
            raise InvalidSamplingParamsError("stop cannot go with detokenize False: stop strings are found in the text")
        if self.include_stop_str_in_output and not self.detokenize:
            raise InvalidSamplingParamsError("include_stop_str_in_output cannot go with detokenize False")


MAX_N = 128
MAX_LOGPROBS = 100
MAX_BIAS = 100.0
MAX_TEMPERATURE = 1e6  # all tokens are equally likely long before; what float32 cannot divide by lies beyond
MAX_REPETITION = 100.0
MAX_TEXTS = 10_000
MAX_CHARACTERS = 100_000
_KINDS = ("json", "regex", "choice", "grammar", "json_object")
_NO_WORD = {"stop": "", "bad_words": " "}  # what alone is no stop string, and no word
_FLOATS = (
    "temperature",
    "top_p",
    "min_p",
    "repetition_penalty",
    "presence_penalty",
    "frequency_penalty",
)


def _listed(name: str, value: object) -> tuple[object, ...]:
    if value is None or isinstance(value, str):
        return (value,) if value is not None else ()
    if not isinstance(value, list | tuple | set | frozenset):
        raise InvalidSamplingParamsError(f"{name} must be a list, got {value!r}")
    return tuple(value)


def _plain_bias(bias: object) -> dict[int, float] | None:
    """Ids as integers, also where JSON made them strings. Raises InvalidSamplingParamsError."""
    if bias is None:
        return None
    if not isinstance(bias, Mapping):
        raise InvalidSamplingParamsError(f"logit_bias must map token ids to numbers, got {bias!r}")
    plain: dict[int, float] = {}
    for key, value in bias.items():
        token_id = int(key) if isinstance(key, str) and key.isdecimal() else key
        if not _is_int(token_id) or token_id < 0:
            raise InvalidSamplingParamsError(f"logit_bias must map token ids to numbers, got the id {key!r}")
        if isinstance(value, bool) or not isinstance(value, int | float) or not -MAX_BIAS <= value <= MAX_BIAS:
            raise InvalidSamplingParamsError(
                f"logit_bias must be in [-{MAX_BIAS:g}, {MAX_BIAS:g}], got {value!r} for token {token_id}"
            )
        plain[token_id] = float(value)
    return plain or None


def _is_finite(value: float) -> bool:
    try:
        return math.isfinite(value)
    except OverflowError:  # an integer that no float holds
        return False


def _is_int(value: object) -> bool:
    return isinstance(value, int) and not isinstance(value, bool)
