"""Preloads: models are loaded ahead of the demand that is predicted for them, into templates that nobody uses yet.

Where a model's pods have devices with memory of their own, its weights are brought into the host's memory all the same,
from where these pods load them (DeepServe 2.13).
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

from deepserve_controller.core.alarms import Alarm, Alarms
from deepserve_controller.core.demand_forecast import DemandForecast
from deepserve_controller.core.function_pool import FunctionPool
from deepserve_controller.core.function_templates import FunctionTemplates
from deepserve_controller.core.host_memory import HostMemory
from deepserve_controller.core.memory_views import HeldTemplate
from deepserve_controller.core.preload_views import KnownModel, ModelForecast, Preload

PRELOAD_ALARM = "preload"
NUM_KNOWN = 200
"""So many are told to a later controller."""


class Preloads:
    """A part of the cluster manager, which says when a model is used and when a template is gone.

    A model is loaded ahead once between two uses: what was given up, or failed, is left to who asks for it. A template
    that nobody uses is kept beyond its window while its model is likely to be asked.
    """

    def __init__(
        self,
        pools: Mapping[str, FunctionPool],
        templates: FunctionTemplates,
        memory: HostMemory,
        alarms: Alarms,
        preload: Preload,
    ) -> None:
        self._pools = pools
        self._templates = templates
        self._memory = memory
        self._alarms = alarms
        self._preload = preload
        self._forecast = DemandForecast()
        self._alarm: Alarm | None = None
        self._loaded_at_use_s: dict[str, float] = {}
        """For which use each was loaded ahead, by when the one before was."""
        templates.is_expected = self._is_expected

    def note_use(self, pool: FunctionPool, now_s: float, was_in_use: bool) -> None:
        """See DemandForecast."""
        if pool.spec.kind == "model":
            self._forecast.note_use(pool.function_id, now_s, was_in_use)

    def forget(self, pool: FunctionPool) -> None:
        self._forecast.forget(pool.function_id)
        self._loaded_at_use_s.pop(pool.function_id, None)

    def known(self, now_s: float) -> list[KnownModel]:
        """Of the models used last, for a later controller; the latest first."""
        found = [self._known(function_id, used_s, now_s) for function_id, used_s in self._forecast.used_s.items()]
        return sorted(found, key=lambda model: model.idle_s)[:NUM_KNOWN]

    def learn(self, models: Sequence[KnownModel], now_s: float) -> None:
        """What an earlier controller knew. That nobody asked while none ran counts like any pause."""
        for model in models:
            used_s = now_s - model.idle_s
            self._forecast.learn(model.function_id, model.gaps_s, used_s)
            self._templates.book.learn(
                model.function_id, HeldTemplate(model.held_mib, model.uses, model.load_ms), used_s
            )
        self.look(now_s)

    def look(self, now_s: float) -> None:
        """A template or a pod is gone, or time has passed: load what is likely to be asked soon, and set an alarm for
        when more may be."""
        if not self._forecast.used_s:
            return
        waiting = [pool for pool in self._pools.values() if self._may_load(pool)]
        if any(self._chance(pool, now_s) > 0.0 for pool in waiting):
            self._load(waiting, now_s)
        ahead_s = self._preload.ahead_s
        looks_s = [self._forecast.next_look_s(pool.function_id, now_s, ahead_s) for pool in waiting]
        self._plan(min((at_s for at_s in looks_s if at_s is not None), default=None))

    def _load(self, waiting: list[FunctionPool], now_s: float) -> None:
        others = [pool for pool in self._pools.values() if self._templates.is_unused(pool)]
        plan = self._preload.choose([self._seen(pool, now_s) for pool in waiting + others], self._free_mib())
        for function_id in plan.give_up:
            self._templates.give_up(self._pools[function_id], "gives its memory to a model that is likely to be asked")
        for function_id in plan.load:
            pool = self._pools[function_id]
            self._loaded_at_use_s[function_id] = self._forecast.used_s[function_id]
            chance = self._chance(pool, now_s)
            text = f"likely ({chance:.0%}) to be asked within {self._preload.ahead_s:g} s"
            self._templates.load_ahead(pool, text, now_s)

    def _may_load(self, pool: FunctionPool) -> bool:
        used_s = self._forecast.used_s.get(pool.function_id)
        is_tried = self._loaded_at_use_s.get(pool.function_id) == used_s
        is_idle = not (pool.pods or pool.queued or pool.is_broken)
        return used_s is not None and is_idle and not is_tried and self._templates.may_load_ahead(pool)

    def _chance(self, pool: FunctionPool, now_s: float) -> float:
        return self._forecast.chance(pool.function_id, now_s, self._preload.ahead_s)

    def _is_expected(self, pool: FunctionPool, now_s: float) -> bool:
        return pool.spec.kind == "model" and self._chance(pool, now_s) > self._preload.least_chance

    def _seen(self, pool: FunctionPool, now_s: float) -> ModelForecast:
        held = self._templates.book.held(pool.function_id, now_s)
        spec = self._templates.spec_of(pool)
        needed_mib = held.held_mib + self._memory.need_mib(spec.environment, spec.resources.memory_mib)
        return ModelForecast(
            pool.function_id,
            self._chance(pool, now_s),
            needed_mib,
            held.load_ms,
            held.uses,
            is_loaded=self._templates.is_unused(pool),
            is_used=bool(pool.pods),
        )

    def _free_mib(self) -> float:
        """A pod of the largest environment stays free besides, so that who asks need not wait for memory."""
        usable_mib = self._memory.usable_mib
        return usable_mib - self._memory.used_mib() - self._memory.need_mib("flowserve", 0) if usable_mib else math.inf

    def _known(self, function_id: str, used_s: float, now_s: float) -> KnownModel:
        pool = self._pools.get(function_id)
        if pool is not None and pool.is_in_use:
            used_s = now_s
        held = self._templates.book.held(function_id, used_s)
        gaps_s = self._forecast.gaps_s(function_id)
        return KnownModel(function_id, now_s - used_s, gaps_s, held.uses, held.held_mib, held.load_ms)

    def _plan(self, at_s: float | None) -> None:
        if self._alarm is not None:
            self._alarms.cancel(self._alarm)
        self._alarm = None if at_s is None else self._alarms.set(at_s, PRELOAD_ALARM, None)
