"""Within what the options of sampling lie, for whoever refuses them where no engine is at hand.

The ranges are vLLM's. FlowServe, which knows nothing of this, draws them itself; a test compares the two.
"""

from __future__ import annotations

LARGEST = 2**64 - 1
"""That a message carries."""
_LEAST = {
    "n": 1, "logprobs": 0,
    "max_tokens": 1, "temperature": 0, "top_p": 0, "top_k": -1, "min_p": 0, "seed": 0, "min_tokens": 0,
    "presence_penalty": -2, "frequency_penalty": -2, "repetition_penalty": 0.01,
}  # fmt: skip
_MOST = {
    "n": 128,
    "logprobs": 100,
    "temperature": 1_000_000,
    "top_p": 1,
    "min_p": 1,
    "presence_penalty": 2,
    "frequency_penalty": 2,
    "repetition_penalty": 100,
}
BOUNDED = tuple(_LEAST)
"""The options that are numbers."""


def out_of_bounds(name: str, value: float) -> str:
    """What an option must be that is not; empty where it lies within its bounds."""
    least, most = _LEAST[name], _MOST.get(name, LARGEST)
    if name == "top_p" and value == 0:
        return "must be above 0: no token would be left"
    if least <= value <= most:
        return ""
    return f"must be at least {least}" + (f" and at most {most}" if name in _MOST or value > most else "")
