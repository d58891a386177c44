"""How a model's tokens are chosen, as users write it."""

from __future__ import annotations

from typing import Any, TypedDict

import msgspec

from deepserve.errors import InvalidOption
from deepserve.protocol.model_io import GenerationParams


class Sampling(TypedDict, total=False):
    """Options of generate, chat and stream; what is not given is the model's own default (generation_config.json).

    max_tokens: at most so many are generated; without it, as many as the context has room for. temperature: 0 takes
    the likeliest token always. top_p, min_p: probabilities from 0 to 1; top_k: a count. seed: the same seed gives the
    same text. stop: texts at which the answer ends; they are not part of it.
    """

    max_tokens: int | None
    temperature: float | None
    top_p: float | None
    top_k: int | None
    min_p: float | None
    seed: int | None
    stop: str | list[str] | None


_LEAST = {"max_tokens": 1, "temperature": 0, "top_p": 0, "min_p": 0, "seed": 0}
_MOST = {"top_p": 1, "min_p": 1}


def params_of(verb: str, given: Any, json_schema: dict[str, Any] | None = None) -> GenerationParams:
    """`given` (a Sampling) as the engine takes it. Raises InvalidOption naming `verb` and the option."""
    options = {name: value for name, value in given.items() if value is not None}
    for name, value in options.items():
        if name not in Sampling.__annotations__:
            raise InvalidOption(f"{verb}: there is no option {name!r}; there are {', '.join(Sampling.__annotations__)}")
        is_number = isinstance(value, int | float) and not isinstance(value, bool)
        if name in _LEAST and is_number and not _LEAST[name] <= value <= _MOST.get(name, value):
            most = f" and at most {_MOST[name]}" if name in _MOST else ""
            raise InvalidOption(f"{verb}: {name}={value!r} must be at least {_LEAST[name]}{most}")
    if isinstance(options.get("stop"), str):
        options["stop"] = [options["stop"]]
    if "stop" in options and not all(options["stop"]):
        raise InvalidOption(f"{verb}: stop={options['stop']!r} holds an empty text")
    try:
        return msgspec.convert({**options, "json_schema": json_schema}, GenerationParams)
    except msgspec.ValidationError as error:
        raise InvalidOption(f"{verb}: {error}") from None
