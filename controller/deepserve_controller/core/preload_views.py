"""What loading models ahead of demand is decided by, and what is decided."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated, NamedTuple, Protocol

import msgspec

NotNegative = Annotated[float, msgspec.Meta(ge=0.0)]


class ModelForecast(NamedTuple):
    """A model without pods. chance: that it is asked soon, 0 to 1.  needed_mib, load_ms: of its template, as was seen
    when it was last loaded.  uses: see HeldTemplate."""

    function_id: str
    chance: float
    needed_mib: int
    load_ms: float = 0.0
    uses: float = 0.0
    is_loaded: bool = False
    is_used: bool = False


class KnownModel(msgspec.Struct, frozen=True):
    """What is known of the demand for one model, for a controller that comes later.

    idle_s: since it was last in use. gaps_s: see DemandForecast. uses, held_mib, load_ms: see HeldTemplate, at its last
    use; the last two are 0 where it had no template.
    """

    function_id: str
    idle_s: NotNegative
    gaps_s: tuple[NotNegative, ...] = ()
    uses: NotNegative = 0.0
    held_mib: Annotated[int, msgspec.Meta(ge=0)] = 0
    load_ms: NotNegative = 0.0


class PreloadPlan(NamedTuple):
    """Function ids: of what to load ahead, and what to give up for it."""

    load: tuple[str, ...] = ()
    give_up: tuple[str, ...] = ()


class Preload(Protocol):
    """Which models to load before they are asked. ahead_s: how far it looks; least_chance: from where a model that is
    loaded is kept."""

    @property
    def ahead_s(self) -> float: ...

    @property
    def least_chance(self) -> float: ...

    def choose(self, models: Sequence[ModelForecast], free_mib: float) -> PreloadPlan: ...


class NoPreload:
    """Models are loaded when they are asked."""

    ahead_s = 0.0
    least_chance = 1.0

    def choose(self, models: Sequence[ModelForecast], free_mib: float) -> PreloadPlan:
        return PreloadPlan()


NO_PRELOAD = NoPreload()
