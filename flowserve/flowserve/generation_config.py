"""generation_config.json: what a model's authors recommend for sampling."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

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
