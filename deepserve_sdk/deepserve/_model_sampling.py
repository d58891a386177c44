"""How a model's tokens are chosen, as users write it."""

from __future__ import annotations

from typing import Any, TypedDict

import msgspec

from deepserve.errors import InvalidOption
from deepserve.protocol.model_io import GenerationParams
from deepserve.protocol.sampling_bounds import BOUNDED, LARGEST, out_of_bounds


class Sampling(TypedDict, total=False):
    """Options of generate, chat and stream; what is not given is the model's own default (generation_config.json).

    max_tokens: at most so many are generated; without it, as many as the context has room for. temperature: 0 takes
    the likeliest token always. top_p, min_p: probabilities from 0 to 1; top_k: a count. seed: the same seed gives the
    same text. presence_penalty, frequency_penalty: -2 to 2, of what the answer has said; repetition_penalty: above 1
    discourages what prompt and answer have said, 0.01 to 100. logit_bias: added to the logits of token ids, -100 to
    100. stop: texts, and stop_token_ids: tokens at which the answer ends; they are not part of it. min_tokens: no end
    before so many; ignore_eos: none but max_tokens. bad_words: texts that the answer must not complete.
    (Names and ranges: vLLM's.)
    """

    max_tokens: int | None
    temperature: float | None
    top_p: float | None
    top_k: int | None
    min_p: float | None
    seed: int | None
    presence_penalty: float | None
    frequency_penalty: float | None
    repetition_penalty: float | None
    logit_bias: dict[int, float] | None
    stop: str | list[str] | None
    stop_token_ids: list[int] | None
    min_tokens: int | None
    ignore_eos: bool | None
    bad_words: list[str] | None


class Answers(Sampling, total=False):
    """Options of generate and chat: those of `Sampling`, and what is told of how many answers.

    n: so many answers to one prompt, 1 to 128, each drawn for itself (temperature above 0); `.choices` has them all.
    logprobs: `.logprobs` tells the log probability of each token of an answer, and of so many of the likeliest in its
    place, 0 to 100. (Names and ranges: vLLM's.)
    """

    n: int | None
    logprobs: int | None


_MAX_BIAS = 100
_NO_WORD = {"stop": "", "bad_words": " "}
"""What alone is no stop text, and no word. All these rules are FlowServe's, which is not at hand here; a test compares
them."""


def params_of(
    verb: str, given: Any, json_schema: dict[str, Any] | None = None, known: type[Any] = Answers
) -> GenerationParams:
    """`given` (a `known`) as the engine takes it. Raises InvalidOption naming `verb` and the option."""
    options = {name: value for name, value in given.items() if value is not None}
    for name in options:
        if name == "timeout":
            owner, _, method = verb.rpartition(".")
            text = f"{owner}.with_options(timeout=...).{method}(...) limits how long a request may run"
            raise InvalidOption(f"{verb}: there is no option 'timeout': {text}")
        if name not in known.__annotations__:
            raise InvalidOption(f"{verb}: there is no option {name!r}; there are {', '.join(known.__annotations__)}")
    if isinstance(options.get("stop"), str):
        options["stop"] = [options["stop"]]
    try:
        params = msgspec.convert({**options, "json_schema": json_schema}, GenerationParams)
    except msgspec.ValidationError as error:
        raise InvalidOption(f"{verb}: {error}") from None
    _check_values(verb, params)
    _check_ids(verb, params)
    _check_pairs(verb, params)
    return params


def _check_values(verb: str, params: GenerationParams) -> None:
    for name in BOUNDED:
        value = getattr(params, name)
        if value is not None and (rule := out_of_bounds(name, value)):
            raise InvalidOption(f"{verb}: {name}={value!r} {rule}")
    for name, no_word in _NO_WORD.items():
        texts = getattr(params, name) or ()
        if not all(text.strip(no_word) if no_word else text for text in texts):
            raise InvalidOption(f"{verb}: {name}={texts!r} holds an empty text")


def _check_ids(verb: str, params: GenerationParams) -> None:
    """Those above the vocabulary are refused in the pod, where that is known."""
    bias = params.logit_bias or {}
    for name, ids in (("logit_bias", bias), ("stop_token_ids", params.stop_token_ids or ())):
        for token_id in ids:
            if not 0 <= token_id <= LARGEST:
                raise InvalidOption(f"{verb}: {name}: {token_id} is no token id")
    for token_id, value in bias.items():
        if not -_MAX_BIAS <= value <= _MAX_BIAS:
            raise InvalidOption(f"{verb}: logit_bias of token {token_id} must be -100 to 100, not {value!r}")


def _check_pairs(verb: str, params: GenerationParams) -> None:
    least, most = params.min_tokens or 0, params.max_tokens
    if most is not None and least > most:
        raise InvalidOption(f"{verb}: min_tokens={least} is more than max_tokens={most}")
    if least and params.json_schema is not None:
        raise InvalidOption(f"{verb}: min_tokens={least} cannot go with output_type, whose schema sets the end")
    if (params.n or 1) > 1 and params.temperature == 0:
        raise InvalidOption(f"{verb}: n={params.n} cannot go with temperature=0, which makes all answers the same")
