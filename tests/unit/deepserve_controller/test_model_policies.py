"""Policies by name: DeepServe's own, and those of others with their constants."""

from __future__ import annotations

import pytest

from deepserve.protocol.specs import Scaling
from deepserve_controller.core.preload_views import NO_PRELOAD
from deepserve_controller.core.scaling_views import FunctionLoad
from deepserve_controller.model_policies import (
    MODEL_AUTOSCALER,
    MODEL_ROUTING,
    PRELOAD,
    model_policies,
    model_policy_named,
)
from deepserve_controller.policies.autoscaler import Reactive
from deepserve_controller.policies.model_baselines import OneATick

ASKED = Scaling(max_pods=4, scaledown_window_s=60.0, target_inputs=32)


def load(queued: int, pods: int) -> FunctionLoad:
    return FunctionLoad(queued, 0, 32, 0, 4, 0, pods, pods, pods, 0.0, 0.0)


def test_nothing_said_is_what_is_in_use() -> None:
    for text in ("", "deepserve", "deepserve*1"):
        policy = model_policy_named(text)
        assert policy.autoscaler() == MODEL_AUTOSCALER and policy.routing() == MODEL_ROUTING
        assert policy.scale(ASKED) == ASKED and policy.tick_s == 0.0 and policy.preload is PRELOAD


def test_a_replay_shortens_the_windows() -> None:
    knative = model_policy_named("knative*4")
    autoscaler = knative.autoscaler()
    assert isinstance(autoscaler, Reactive)
    assert (autoscaler.stable_window_s, autoscaler.panic_window_s) == (15.0, 1.5)
    scaling = knative.scale(ASKED)
    assert (scaling.target_inputs, scaling.scaledown_window_s, scaling.max_pods) == (22, 7.5, 4)
    assert model_policies(4.0)["one a tick"].tick_s == 0.25


def test_bounds_of_the_others() -> None:
    assert model_policy_named("always on").scale(ASKED).min_pods == 4
    kept = model_policy_named("one a tick").scale(ASKED)
    assert (kept.max_inputs, kept.target_inputs, kept.scaledown_window_s) == (2, 2, 0.0)
    assert model_policy_named("knative").preload is NO_PRELOAD


def test_one_a_tick_starts_one_and_keeps_none() -> None:
    policy = OneATick(target=2, tick_s=1.0)
    assert policy.decide(load(8, 0), 10.0).pods == 1
    assert policy.decide(load(8, 1), 10.5).pods == 1
    assert policy.decide(load(8, 1), 11.0).pods == 2
    assert policy.decide(load(0, 2), 11.5).pods == 1


@pytest.mark.parametrize(
    ("text", "said"),
    [("k8s", "no policy 'k8s'; there are: deepserve"), ("knative*0", "speed '0'"), ("knative*x", "speed 'x'")],
)
def test_what_is_none_is_named(text: str, said: str) -> None:
    with pytest.raises(ValueError, match=said.replace("*", r"\*")):
        model_policy_named(text)
