"""What a start of a model is likely to take; read-only."""

from __future__ import annotations

from typing import Annotated, Literal, NamedTuple

import msgspec

TemplateUse = Literal["none", "needed", "ready"]
"""Of a function's next pod: it loads for itself; it is forked from a template, which is loaded first; or is there."""


class Startup(NamedTuple):
    """A start of a model, were it ordered now: seconds until it is ready, from `source`, where its weights are believed
    to be, and by source ("fork", "host memory", "file"). weights_bytes: 0 unknown. is_observed: what the engine takes
    beside its bytes was seen; else that is assumed."""

    seconds: float
    source: str
    by_source_s: dict[str, float]
    weights_bytes: int
    is_observed: bool = True


MAX_ENGINE_S = 86400.0
"""What takes longer than a day is no start."""
BytesPerS = Annotated[float, msgspec.Meta(gt=0.0, le=1e15)]
Seconds = Annotated[float, msgspec.Meta(ge=0.0, le=MAX_ENGINE_S)]
SizeBytes = Annotated[int, msgspec.Meta(gt=0, le=1 << 50)]


class KnownSize(msgspec.Struct, frozen=True):
    """size_bytes: of the weights of a source, as they are computed with."""

    source: str
    dtype: str
    quantization: str | None
    size_bytes: SizeBytes


class KnownStartups(msgspec.Struct, frozen=True):
    """What was learned of starts on this host, for a controller that comes later: see StartupTimes, StartupBook.

    bytes_per_s: by link, of those that are there. engine_s: the longest ago observed first. sizes: the latest last.
    """

    bytes_per_s: dict[str, BytesPerS] = {}
    engine_s: dict[str, Seconds] = {}
    sizes: tuple[KnownSize, ...] = ()


NOTHING_KNOWN = KnownStartups()
