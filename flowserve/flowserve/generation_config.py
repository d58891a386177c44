"""generation_config.json: what a model's authors recommend for sampling."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from .errors import InvalidSamplingParamsError
from .sampling_params import SamplingParams

_NAMES = ("temperature", "top_p", "top_k", "min_p", "repetition_penalty")


def read_sampling_defaults(folder: Path) -> dict[str, Any]:
    """Fields of SamplingParams; empty where the file is missing or no JSON object: it is advice, not needed."""
    path = folder / "generation_config.json"
    try:
        found = json.loads(path.read_text()) if path.is_file() else {}
    except ValueError:
        return {}
    if not isinstance(found, dict):
        return {}
    defaults = {name: found[name] for name in _NAMES if found.get(name) is not None}
    return {"temperature": 0.0} if found.get("do_sample") is False else defaults


def params_over(defaults: dict[str, Any], given: dict[str, Any]) -> SamplingParams:
    """What was asked for, over the model's defaults. Raises InvalidSamplingParamsError, which says what it is not the
    caller's own."""
    merged = {**defaults, **given}
    if "temperature" not in given and merged.get("temperature") == 0 and (given.get("n") or 1) != 1:
        raise InvalidSamplingParamsError(
            f"n {given['n']} cannot go with temperature 0, which is this model's default (generation_config.json): "
            "all would be the same; set a temperature above 0"
        )
    return SamplingParams(**merged)
