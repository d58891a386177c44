"""What a user may ask of sampling. Names and defaults follow vLLM, so its users know them."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

from .errors import InvalidSamplingParamsError


@dataclass(frozen=True)
class StructuredOutputsParams:
    """Constrain the output; exactly one field is given. Compiled when the sequence is added (`InvalidGrammarError`).

    json: JSON schema, as a dict or as text.  regex: the whole output matches it.
    choice: the output is one of these strings.  grammar: Lark syntax as llguidance reads it.
    """

    json: dict[str, Any] | str | None = None
    regex: str | None = None
    choice: list[str] | None = None
    grammar: str | None = None

    def __post_init__(self) -> None:
        given = [name for name in ("json", "regex", "choice", "grammar") if getattr(self, name) is not None]
        if len(given) != 1:
            raise InvalidSamplingParamsError(
                f"structured_outputs needs exactly one of json, regex, choice, grammar; got {given or 'none'}"
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

    max_tokens: new tokens at most; None = what is left of the context.
    temperature: 0 = greedy.  top_k: 0 or -1 = off.  top_p, min_p: after temperature, probabilities in [0, 1].
    seed: same seed, prompt and parameters give the same tokens, whatever else runs; None = a fresh one.
    stop: strings that end the output and are not part of it.  stop_token_ids: end it, their text is not part of it.
    ignore_eos: go on to max_tokens.  min_tokens: no end of sequence or stop token before so many tokens.
    logprobs: report the n most likely tokens of each step and the chosen one, from the raw logits; None = off.
    repetition_penalty: > 1 discourages tokens of prompt and output; presence_ and frequency_penalty: of the output.
    """

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
    repetition_penalty: float = 1.0
    presence_penalty: float = 0.0
    frequency_penalty: float = 0.0
    skip_special_tokens: bool = True
    structured_outputs: StructuredOutputsParams | None = None

    def __post_init__(self) -> None:
        stop = (self.stop,) if isinstance(self.stop, str) else tuple(self.stop or ())
        object.__setattr__(self, "stop", stop)
        object.__setattr__(self, "stop_token_ids", tuple(self.stop_token_ids or ()))
        self._check_types()
        self._check_ranges()

    @property
    def is_greedy(self) -> bool:
        return self.temperature == 0.0

    @property
    def has_penalties(self) -> bool:
        return self.repetition_penalty != 1.0 or self.presence_penalty != 0.0 or self.frequency_penalty != 0.0

    def _check_types(self) -> None:
        for name in ("max_tokens", "seed", "logprobs"):
            value = getattr(self, name)
            if value is not None and not _is_int(value):
                raise InvalidSamplingParamsError(f"{name} must be an integer or None, got {value!r}")
        for name in ("top_k", "min_tokens"):
            if not _is_int(getattr(self, name)):
                raise InvalidSamplingParamsError(f"{name} must be an integer, got {getattr(self, name)!r}")
        for name in _FLOATS:
            value = getattr(self, name)
            if isinstance(value, bool) or not isinstance(value, int | float) or not math.isfinite(value):
                raise InvalidSamplingParamsError(f"{name} must be a finite number, got {value!r}")
        if not all(isinstance(text, str) and text for text in self.stop):
            raise InvalidSamplingParamsError(f"stop must hold non-empty strings, got {list(self.stop)!r}")
        if not all(_is_int(token_id) and token_id >= 0 for token_id in self.stop_token_ids):
            raise InvalidSamplingParamsError(f"stop_token_ids must hold token ids, got {list(self.stop_token_ids)!r}")

    def _check_ranges(self) -> None:
        rules = (
            ("max_tokens", self.max_tokens is None or self.max_tokens >= 1, "at least 1"),
            ("temperature", self.temperature >= 0.0, "0 or more"),
            ("top_k", self.top_k >= -1, "-1, 0 (both off) or more"),
            ("top_p", 0.0 < self.top_p <= 1.0, "in (0, 1]"),
            ("min_p", 0.0 <= self.min_p <= 1.0, "in [0, 1]"),
            ("min_tokens", self.min_tokens >= 0, "0 or more"),
            ("logprobs", self.logprobs is None or 0 <= self.logprobs <= MAX_LOGPROBS, f"0 to {MAX_LOGPROBS}"),
            ("repetition_penalty", self.repetition_penalty > 0.0, "more than 0"),
            ("presence_penalty", -2.0 <= self.presence_penalty <= 2.0, "in [-2, 2]"),
            ("frequency_penalty", -2.0 <= self.frequency_penalty <= 2.0, "in [-2, 2]"),
        )
        for name, holds, rule in rules:
            if not holds:
                raise InvalidSamplingParamsError(f"{name} must be {rule}, got {getattr(self, name)!r}")
        if self.max_tokens is not None and self.min_tokens > self.max_tokens:
            raise InvalidSamplingParamsError(f"min_tokens {self.min_tokens} is more than max_tokens {self.max_tokens}")
        if self.structured_outputs is not None and self.min_tokens:
            raise InvalidSamplingParamsError("min_tokens cannot go with structured_outputs: the grammar sets the end")


MAX_LOGPROBS = 100
_FLOATS = (
    "temperature",
    "top_p",
    "min_p",
    "repetition_penalty",
    "presence_penalty",
    "frequency_penalty",
)


def _is_int(value: object) -> bool:
    return isinstance(value, int) and not isinstance(value, bool)
