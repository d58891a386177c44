"""How other systems scale the engines of a model: for comparisons, in the simulator and with real pods."""

from __future__ import annotations

import math

import msgspec

from deepserve.protocol.specs import Scaling
from deepserve_controller.core.scaling_views import FunctionLoad, PodsWanted
from deepserve_controller.core.template_views import PodSource, TemplateView
from deepserve_controller.policies.autoscaler import within_bounds

TICK_TARGET = 2
"""Requests of an instance, in ServerlessLLM's controller."""
KNATIVE_UTILISATION = 0.7
KNATIVE_KEEP_S = 30.0
"""Until the last pod goes (`scale-to-zero-grace-period`)."""


class OneATick:
    """ServerlessLLM's controller: an instance for every `target` requests; one is started in a tick, none is kept."""

    stable_window_s = 0.0
    panic_window_s = 0.0

    def __init__(self, target: int = TICK_TARGET, tick_s: float = 1.0) -> None:
        self._target = target
        self._tick_s = tick_s
        self._started_s = -math.inf

    def decide(self, load: FunctionLoad, now_s: float) -> PodsWanted:
        wanted = -(-(load.queued + load.running) // self._target)
        if wanted > load.pods:
            if now_s - self._started_s < self._tick_s:
                return within_bounds(load, PodsWanted(load.pods, "one in a tick"))
            self._started_s = now_s
            return within_bounds(load, PodsWanted(load.pods + 1, f"{wanted} wanted, one in a tick"))
        return within_bounds(load, PodsWanted(max(wanted, load.pods - 1), f"{wanted} wanted"))


def always_on(scaling: Scaling) -> Scaling:
    return msgspec.structs.replace(scaling, min_pods=scaling.max_pods)


def no_keep_alive(scaling: Scaling) -> Scaling:
    return msgspec.structs.replace(
        scaling, max_inputs=TICK_TARGET, target_inputs=TICK_TARGET, scaledown_window_s=0.0
    )  # fmt: skip


def knative(scaling: Scaling, keep_s: float = KNATIVE_KEEP_S) -> Scaling:
    target = int(KNATIVE_UTILISATION * (scaling.target_inputs or scaling.max_inputs))
    return msgspec.structs.replace(scaling, target_inputs=target, scaledown_window_s=keep_s)


def load_in_each(view: TemplateView) -> PodSource:
    return PodSource(view.missing, False, False, "each loads for itself")
