"""How many engines: every signal alone, and what holds whatever is measured."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from deepserve import Model
from deepserve_controller.core.actions import StartPod, StartTemplate
from deepserve_controller.core.events import (
    DemandChanged,
    ExecutorReady,
    FunctionDefined,
    PodBusy,
    PodConnected,
    TemplateReady,
)  # fmt: skip
from deepserve_controller.core.scaling_views import FunctionLoad, Panic, PodsWanted, TokenLoad
from deepserve_controller.policies.model_autoscaler import TokenLoadScaling, predicted_rate
from deepserve_controller.policies.pod_source import fork_bursts
from tests.unit.deepserve_controller.harness import Cluster, of_type, only

POLICY = TokenLoadScaling()
"""An engine of 1,000 tokens a second has a target of 0.7 * 1000 * 0.5 = 350 tokens in flight."""


def load(tokens: TokenLoad | None = None, **changed: Any) -> FunctionLoad:
    usual: dict[str, Any] = {
        "queued": 0, "running": 1, "slots": 32, "min_pods": 0, "max_pods": 8, "buffer_pods": 0, "pods": 1,
        "ready_pods": 1, "recent_pods": 1,
    }  # fmt: skip
    return FunctionLoad(**{**usual, **changed}, tokens=tokens)


def wanted(tokens: TokenLoad | None = None, now_s: float = 100.0, **changed: Any) -> PodsWanted:
    found = POLICY.decide(load(tokens, **changed), now_s)
    assert found.reason
    return found


def test_tokens_in_flight_ask_for_pods_where_tasks_do_not() -> None:
    busy = TokenLoad(queued=500, prefill=900, prompt_tokens_per_s=1000.0)
    assert wanted(busy, running=4).pods == 4
    assert wanted(busy._replace(prompt_tokens_per_s=0.0), running=3).pods == 1, "nothing is known of its speed yet"
    assert wanted(None, running=3).pods == 1
    assert wanted(None, queued=200, running=0, pods=0, ready_pods=0).pods == 7, "slots count as before"


@pytest.mark.parametrize("start_s", [0.0, 0.1])
def test_long_prompts_never_ask_for_more_pods_than_tasks(start_s: float) -> None:
    """Each is computed by one engine."""
    long = TokenLoad(prefill=15_477, prompt_tokens_per_s=4440.0, arrivals=(0.0, 15_477.0))
    one = wanted(long, start_s=start_s)
    assert one.pods == one.needed == 1 and one.panic.pods == 0
    two = wanted(long, queued=1, start_s=start_s)
    assert two.pods == 2 and "10 pods, 2 for as many tasks" in two.reason
    assert wanted(long, queued=1, running=0, pods=0, ready_pods=0).pods == 1
    asked_for = wanted(long, buffer_pods=1, min_pods=3)
    assert asked_for.pods == 3, "what its owner asks for stands"


def test_a_long_prompt_starts_no_pod_and_leaves_no_burst_behind() -> None:
    cluster = Cluster()
    cluster.define(kind="model", environment="flowserve", max_inputs=32)
    pod = only(cluster(DemandChanged("fn", 1, 0, 0.0)), StartPod)
    cluster(PodConnected(pod.pod_id, 1))
    cluster(ExecutorReady(pod.pod_id, "fn", 32))
    cluster(PodBusy(pod.pod_id))
    long = TokenLoad(prefill=15_477, prompt_tokens_per_s=4440.0)
    assert not of_type(cluster(DemandChanged("fn", 0, 1, None, long)), StartPod)
    pool = cluster.core._pools["fn"]
    assert (pool.wanted.pods, pool.panic.pods) == (1, 0)
    two = cluster(DemandChanged("fn", 1, 1, 0.0, long))
    assert len(of_type(two, StartPod)) == 1


def test_what_the_ready_ones_finish_before_a_start_needs_no_start() -> None:
    busy = TokenLoad(queued=0, prefill=1400, prompt_tokens_per_s=1000.0)
    assert wanted(busy, running=4).pods == 4
    assert wanted(busy, running=4, start_s=5.0).pods == 1
    steady = busy._replace(arrivals=(2000.0, 2000.0, 2000.0))
    assert wanted(steady, running=3, start_s=5.0).pods == 3, "prompts keep coming at two engines' rate, at 70 %"


def test_the_floor_is_predicted_and_nobody_who_asks_means_zero() -> None:
    growing = TokenLoad(prompt_tokens_per_s=1000.0, arrivals=(700.0,) * 3 + (1400.0,) * 3)
    assert wanted(growing, running=3, pods=2, ready_pods=2).pods == 3
    assert predicted_rate(growing.arrivals, 0.0) == pytest.approx(1400 + 700 / 3)
    assert predicted_rate((900.0, 600.0, 600.0, 0.0, 0.0, 0.0), 30.0) == 0.0
    assert predicted_rate((), 3.0) == 0.0
    assert wanted(growing, running=0, recent_pods=0).pods == 0


def test_slow_tokens_add_one_pod_at_a_time_and_keep_those_there_are() -> None:
    slow = TokenLoad(prefill=200, prompt_tokens_per_s=1000.0, late_s=0.5)
    assert wanted(slow, running=4).pods == 2
    assert wanted(slow, running=4, pods=2).pods == 2, "one is starting"
    assert wanted(slow, running=1).pods == 1, "one task is no faster on two pods"
    assert wanted(slow._replace(prefill=10), running=4).pods == 1, "a long prompt, no load"
    near = slow._replace(late_s=0.25)
    assert wanted(near, running=4, pods=2, ready_pods=2).pods == 2
    assert wanted(slow._replace(late_s=0.0, step_s=0.3), running=4).pods == 2


@pytest.mark.parametrize("value", [math.nan, math.inf, -1.0])
def test_numbers_that_cannot_be_true_change_nothing(value: float) -> None:
    kept = wanted(TokenLoad(prompt_tokens_per_s=value), running=1, pods=3, ready_pods=3)
    assert kept.pods == 3 and "kept" in kept.reason
    assert wanted(TokenLoad(late_s=value), queued=1, running=0, pods=0, ready_pods=0).pods == 1
    assert wanted(TokenLoad(arrivals=(value,)), pods=2, ready_pods=2).pods == 2


def test_after_a_restart_it_begins_in_panic() -> None:
    fresh = wanted(TokenLoad(), running=1, pods=4, ready_pods=4, age_s=1.0)
    assert fresh.pods == 4 and fresh.panic == Panic(100.0, 100.0, 4)
    assert wanted(TokenLoad(), running=1, pods=4, ready_pods=4, age_s=60.0).panic.pods == 0


def test_a_burst_is_kept_for_the_stable_window() -> None:
    first = wanted(TokenLoad(queued=1400, prompt_tokens_per_s=1000.0), running=4)
    assert (first.pods, first.panic.pods) == (4, 4)
    quiet = load(TokenLoad(prompt_tokens_per_s=1000.0), pods=4, ready_pods=4, panic=first.panic)
    assert POLICY.decide(quiet, 110.0).pods == 4
    assert POLICY.decide(quiet, 131.0).pods < 4


def test_measurements_fade_and_what_is_to_be_done_does_not() -> None:
    cluster = Cluster()
    cluster.define(kind="model", environment="flowserve", max_inputs=32)
    slow = TokenLoad(prefill=200, prompt_tokens_per_s=1000.0, late_s=0.5, arrivals=(5000.0,))
    cluster(DemandChanged("fn", 0, 4, None, slow))
    pool = cluster.core._pools["fn"]
    assert pool.load(POLICY, 0.0, cluster.now_s).tokens == slow
    cluster.advance(31.0)
    assert pool.load(POLICY, 0.0, cluster.now_s).tokens == slow._replace(late_s=0.0, arrivals=())


def test_a_slow_first_start_buys_no_executors_for_who_waits_meanwhile(tmp_path: Path) -> None:
    """Six wait while the first one loads, which has seats for all of them: none would be ready before it."""
    (tmp_path / "config.json").touch()
    cluster = Cluster(choose_source=fork_bursts)
    cluster(FunctionDefined("fn", Model("tiny", tmp_path).spec))
    started = [action for queued in range(1, 7) for action in cluster(DemandChanged("fn", queued, 0, 0.0))]
    cluster.advance(2.0)
    started += cluster(TemplateReady(only(started, StartTemplate).template_id, 7))
    assert len(of_type(started, StartPod)) == 1
    [view] = cluster.core.functions_view()
    assert view.reason == "6 queued + 0 running tasks / 32 slots = 1 pods"


AMOUNTS = st.one_of(st.floats(0, 1e6), st.sampled_from([math.nan, math.inf, -1.0, 0.0]))


@given(
    st.builds(
        TokenLoad, st.integers(0, 10**6), st.integers(0, 10**6), st.integers(0, 10**5), AMOUNTS, AMOUNTS, AMOUNTS,
        st.lists(AMOUNTS, max_size=8).map(tuple),
    ),
    st.integers(0, 50), st.integers(0, 50), st.integers(0, 8), st.integers(0, 8), st.floats(0, 100),
)  # fmt: skip
def test_bounds_hold_whatever_is_measured(
    tokens: TokenLoad, queued: int, running: int, pods: int, least: int, start_s: float
) -> None:
    asked = load(tokens, queued=queued, running=running, pods=pods, ready_pods=pods, min_pods=least, start_s=start_s)
    found = POLICY.decide(asked, 50.0)
    assert least <= found.pods <= 8 and found.reason
    assert found.pods >= min(8, 1 if queued else 0)
