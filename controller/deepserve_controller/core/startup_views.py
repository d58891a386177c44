"""What a start of a model is likely to take; read-only."""

from __future__ import annotations

from typing import Literal, NamedTuple

TemplateUse = Literal["none", "needed", "ready"]
"""Of a function's next pod: it loads for itself; it is forked from a template, which is loaded first; or is there."""


class Startup(NamedTuple):
    """A start of a model, were it ordered now: seconds until it is ready, from `source`, where its weights are believed
    to be, and by source ("fork", "host memory", "file"). weights_bytes: 0 unknown."""

    seconds: float
    source: str
    by_source_s: dict[str, float]
    weights_bytes: int
