"""Preload: which models to load before somebody asks for them (DeepServe 2.13)."""

from __future__ import annotations

from collections.abc import Sequence

import msgspec

from deepserve_controller.core.memory_views import HeldTemplate
from deepserve_controller.core.preload_views import ModelForecast, PreloadPlan
from deepserve_controller.policies.host_cache import saved_per_memory


class ForecastPreload(msgspec.Struct, frozen=True):
    """Models that are more likely than not to be asked within `ahead_s` are loaded, the worth most first, as far as
    memory goes: with what others hold that nobody uses and that are worth less, by the measure of the host's cache."""

    ahead_s: float = 30.0
    least_chance: float = 0.5

    def choose(self, models: Sequence[ModelForecast], free_mib: float) -> PreloadPlan:
        """`free_mib`: memory that nobody has; infinite where there is no bound."""
        wanted = [model for model in models if not model.is_loaded and model.chance > self.least_chance]
        spare = [model for model in models if model.is_loaded and not model.is_used]
        load: list[str] = []
        give_up: list[str] = []
        for model in sorted(wanted, key=_worth, reverse=True):
            free, leaving = free_mib, []
            for other in sorted(spare, key=_worth):
                if free >= model.needed_mib or _worth(other) >= _worth(model):
                    break
                free += other.needed_mib
                leaving.append(other)
            if free >= model.needed_mib:
                load.append(model.function_id)
                give_up += [other.function_id for other in leaving]
                spare = [other for other in spare if other not in leaving]
                free_mib = free - model.needed_mib
        return PreloadPlan(tuple(load), tuple(give_up))


def _worth(model: ModelForecast) -> float:
    return saved_per_memory(HeldTemplate(model.needed_mib, model.uses + model.chance, model.load_ms))
