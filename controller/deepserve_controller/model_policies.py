"""What may scale and route models: DeepServe's own policies, and by name those of others to compare them with."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import partial

import msgspec

from deepserve.protocol.specs import Scaling
from deepserve_controller.core.preload_views import NO_PRELOAD, Preload
from deepserve_controller.core.routing_views import ModelRouting
from deepserve_controller.core.scaling_views import Autoscaler
from deepserve_controller.core.template_views import ChooseSource
from deepserve_controller.policies.autoscaler import Reactive
from deepserve_controller.policies.model_autoscaler import TokenLoadScaling
from deepserve_controller.policies.model_baselines import (
    KNATIVE_KEEP_S,
    OneATick,
    always_on,
    knative,
    load_in_each,
    no_keep_alive,
)
from deepserve_controller.policies.model_router import BlockCost, RoundRobin
from deepserve_controller.policies.pod_source import fork_bursts
from deepserve_controller.policies.preload import ForecastPreload

MODEL_ROUTING: ModelRouting = BlockCost()
MODEL_AUTOSCALER: Autoscaler = TokenLoadScaling()
PRELOAD: Preload = ForecastPreload()
OURS = "deepserve"


class ModelPolicy(msgspec.Struct, frozen=True):
    """How engines are scaled, started and chosen. `scale`: what becomes of a model's bounds; `tick_s`: a look at
    the demand besides those that news cause, for policies that need one."""

    autoscaler: Callable[[], Autoscaler] = lambda: MODEL_AUTOSCALER
    routing: Callable[[], ModelRouting] = lambda: MODEL_ROUTING
    scale: Callable[[Scaling], Scaling] = lambda scaling: scaling
    choose_source: ChooseSource = fork_bursts
    tick_s: float = 0.0
    preload: Preload = NO_PRELOAD


def model_policies(speed: float = 1.0) -> Mapping[str, ModelPolicy]:
    """By name. `speed`: for a replay that runs so many times as fast as its trace, so that their windows do, too."""
    own = TokenLoadScaling(base=Reactive(30.0 / speed, 3.0 / speed))
    return {
        OURS: ModelPolicy(lambda: own, preload=PRELOAD),
        "no preload": ModelPolicy(lambda: own),
        "round robin": ModelPolicy(lambda: own, RoundRobin, preload=PRELOAD),
        "always on": ModelPolicy(scale=always_on),
        "one a tick": ModelPolicy(
            lambda: OneATick(tick_s=1.0 / speed), RoundRobin, no_keep_alive, load_in_each, tick_s=1.0 / speed
        ),
        "knative": ModelPolicy(
            lambda: Reactive(stable_window_s=60.0 / speed, panic_window_s=6.0 / speed), RoundRobin,
            partial(knative, keep_s=KNATIVE_KEEP_S / speed), load_in_each, tick_s=2.0 / speed,
        ),
    }  # fmt: skip


def model_policy_named(text: str) -> ModelPolicy:
    """`NAME` or `NAME*SPEED`, as in `knative*4`; the empty text is DeepServe's own. Raises ValueError."""
    name, _, speed = text.partition("*")
    try:
        factor = float(speed or 1.0)
    except ValueError:
        factor = 0.0
    if not 0.0 < factor < 1e6:
        raise ValueError(f"{text!r}: the speed {speed!r} is no number above 0")
    policies = model_policies(factor)
    if (name.strip() or OURS) not in policies:
        raise ValueError(f"there is no policy {name!r}; there are: {', '.join(policies)}")
    return policies[name.strip() or OURS]
