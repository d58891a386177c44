"""How the number of a function's pods follows its demand and the host's memory, and what is said about it."""

from __future__ import annotations

import pytest

from deepserve.protocol.specs import Resources
from deepserve_controller.core.actions import Action, BindPod, KillPod, StartPod, StopPod
from deepserve_controller.core.events import (
    ControllerStarted,
    DemandChanged,
    ExecutorFailed,
    ExecutorReady,
    FunctionRemoved,
    PodBusy,
    PodConnected,
    PodDrained,
    PodDrainStarted,
    PodIdle,
    PodLost,
    ScalingChanged,
)
from tests.unit.deepserve_controller.harness import Cluster, news, of_type, only
from tests.unit.deepserve_controller.test_cluster_manager import demand, up


def busy(cluster: Cluster, *pod_ids: str) -> None:
    for pod_id in pod_ids:
        cluster(PodBusy(pod_id))


def idle(cluster: Cluster, *pod_ids: str) -> None:
    for pod_id in pod_ids:
        cluster(PodIdle(pod_id))


def drained(actions: list[Action]) -> list[str]:
    return [event.pod_id for event in news(actions, PodDrainStarted)]


def pods(first: int, last: int) -> list[str]:
    return [f"pod-{number}" for number in range(first, last + 1)]


def burst(cluster: Cluster, number: int, function_id: str = "fn") -> None:
    """So many tasks at once, each on a pod of its own by the end."""
    cluster(demand(number, 0, function_id))
    up(cluster, *pods(1, number), function_id=function_id)
    busy(cluster, *pods(1, number))
    cluster(demand(0, number, function_id))


# --- windows --------------------------------------------------------------------------------------------


def test_a_burst_keeps_its_pods_while_calls_come_and_loses_them_in_steps(cluster: Cluster) -> None:
    cluster.define(scaledown_window_s=5.0)
    burst(cluster, 8)
    cluster.advance(1.0)
    idle(cluster, *pods(2, 8))
    assert drained(cluster.advance(28.0)) == []  # pod-1 works on: the burst is 29 s old
    gone = cluster.advance(10.0)
    assert drained(gone)[:4] == pods(2, 5), "at most half at a time, the longest idle first"
    assert sorted(drained(gone)) == pods(2, 8)
    assert cluster.states()["pod-1"] == "bound"


def test_a_function_that_nobody_calls_ends_after_its_window_whatever_came_before(cluster: Cluster) -> None:
    cluster.define(scaledown_window_s=5.0)
    burst(cluster, 8)
    cluster.advance(60.0)
    idle(cluster, *pods(1, 8))
    assert drained(cluster.advance(4.9)) == []
    assert sorted(drained(cluster.advance(0.1))) == pods(1, 8)


def test_a_longer_idle_pod_waits_for_the_last_one_without_an_alarm_in_between(cluster: Cluster) -> None:
    """An idle function costs one wake-up, not one a second."""
    cluster.define(scaledown_window_s=50.0)
    burst(cluster, 3)
    idle(cluster, "pod-1")
    cluster.advance(20.0)
    idle(cluster, "pod-2", "pod-3")
    wakes = cluster.num_timers_fired
    assert sorted(drained(cluster.advance(60.0))) == pods(1, 3)
    assert cluster.num_timers_fired - wakes <= 2


def test_min_pods_that_are_idle_cost_no_wake_up(cluster: Cluster) -> None:
    cluster.define(min_pods=2, scaledown_window_s=1.0, startup_timeout_s=5.0)
    up(cluster, "pod-1", "pod-2")
    cluster.advance(60.0)
    wakes = cluster.num_timers_fired
    assert cluster.advance(3600.0) == []
    assert cluster.num_timers_fired == wakes


def test_sequential_calls_set_no_alarm_each(cluster: Cluster) -> None:
    cluster.define(scaledown_window_s=60.0)
    burst(cluster, 1)
    for _ in range(1000):
        idle(cluster, "pod-1")
        busy(cluster, "pod-1")
        cluster.advance(0.01)
    assert cluster.num_timers_set <= 4  # a limit to start, one to look for idle pods


def test_pods_with_several_slots_are_drained_though_all_are_busy(cluster: Cluster) -> None:
    """Tasks are spread: with little to do, all pods have a little of it. What runs on the drained ones may end."""
    cluster.define(max_inputs=4, scaledown_window_s=5.0)
    cluster(demand(16))
    up(cluster, *pods(1, 4), slots=4)
    busy(cluster, *pods(1, 4))
    cluster(demand(0, 16))
    cluster.advance(1.0)
    cluster(demand(0, 4))
    assert drained(cluster.advance(4.0)) == [], "within the window"
    assert drained(cluster.advance(60.0)) == ["pod-4", "pod-3", "pod-2"]


def test_scaling_aims_at_the_target_not_at_what_a_pod_can_hold(cluster: Cluster) -> None:
    cluster.define(max_inputs=8, target_inputs=2)
    assert len(of_type(cluster(demand(7)), StartPod)) == 4


def test_a_busy_pod_with_several_slots_counts_as_one_beside_the_buffer(cluster: Cluster) -> None:
    """Not as many as its slots would fill at their target."""
    cluster.define(max_inputs=4, target_inputs=1, buffer_pods=1)
    cluster(demand(1))
    up(cluster, "pod-1", "pod-2", slots=4)
    cluster(demand(0, 1))
    assert not of_type(cluster(PodBusy("pod-1")), StartPod)
    assert not of_type(cluster(PodBusy("pod-2")), StartPod)
    assert len(of_type(cluster(demand(0, 2)), StartPod)) == 1  # as the job executor says for several slots


# --- draining -------------------------------------------------------------------------------------------


def test_a_drained_pod_ends_when_its_last_task_has(cluster: Cluster) -> None:
    cluster.define()
    burst(cluster, 2)
    actions = cluster(ScalingChanged("fn", 0, 1))
    assert drained(actions) == ["pod-2"] and not of_type(actions, StopPod) and not of_type(actions, KillPod)
    assert only(cluster(PodDrained("pod-2")), StopPod).pod_id == "pod-2"


def test_a_drained_pod_that_never_ends_is_killed_after_its_functions_limit(cluster: Cluster) -> None:
    cluster.define(timeout_s=20.0)
    burst(cluster, 1)
    cluster(FunctionRemoved("fn"))
    assert cluster.states() == {"pod-1": "draining"}
    assert not cluster.advance(24.9)
    assert only(cluster.advance(0.1), KillPod).reason == "still busy 25 s after: app/f was removed"
    cluster(PodLost("pod-1", "killed", -9))
    assert cluster.states() == {}


def test_new_windows_and_buffers_hold_at_once(cluster: Cluster) -> None:
    cluster.define(scaledown_window_s=100.0)
    burst(cluster, 1)
    started = of_type(cluster(ScalingChanged("fn", 0, 4, buffer_pods=2, window_s=3.0)), StartPod)
    assert len(started) == 2
    up(cluster, "pod-2", "pod-3")
    idle(cluster, "pod-1")
    assert sorted(drained(cluster.advance(3.0))) == pods(1, 3)


# --- memory ---------------------------------------------------------------------------------------------


def small(usable_mib: int = 1000, **functions: int) -> Cluster:
    """Functions whose pods have so many MiB each."""
    cluster = Cluster(usable_mib=usable_mib)
    for name, memory_mib in functions.items():
        cluster.define(name, name=name, resources=Resources(memory_mib=memory_mib), max_pods=8)
    return cluster


def test_no_more_pods_than_memory_holds_and_the_reason_says_so() -> None:
    cluster = small(a=300)
    assert len(of_type(cluster(demand(5, 0, "a")), StartPod)) == 3
    [view] = cluster.core.functions_view()
    assert (view.pods, view.pods_wanted) == (3, 5)
    assert view.reason.endswith("waits for memory: a pod needs 300 MiB, 900 of 1000 MiB are taken")


def test_idle_pods_of_others_make_room_the_longest_idle_first_and_are_waited_for() -> None:
    cluster = small(a=300, b=300)
    cluster(demand(3, 0, "a"))
    up(cluster, *pods(1, 3), function_id="a")
    cluster(demand(0, 0, "a"))
    busy(cluster, "pod-1")
    cluster.advance(1.0)
    idle(cluster, "pod-1")
    actions = cluster(demand(2, 0, "b"))
    assert drained(actions) == ["pod-2", "pod-3"] and not of_type(actions, StartPod)
    assert not of_type(cluster(demand(2, 0, "b")), StartPod), "room was asked for already"
    cluster(PodDrained("pod-2"))
    start = only(cluster(PodLost("pod-2", "", 0)), StartPod)
    assert (start.pod_id, start.memory_mib) == ("pod-4", 300)
    cluster(PodDrained("pod-3"))
    assert only(cluster(PodLost("pod-3", "", 0)), StartPod).pod_id == "pod-5"
    [a, b] = cluster.core.functions_view()
    assert (a.pods, b.pods, "waits" in b.reason) == (1, 2, False)
    assert cluster.core.scaling_history("a")[-1].reason == "gives its memory to app/b; idle for 1 s"


def test_the_least_pods_of_another_function_are_not_taken() -> None:
    cluster = Cluster(usable_mib=700)
    cluster.define("a", min_pods=2, resources=Resources(memory_mib=300))
    cluster.define("b", resources=Resources(memory_mib=300))
    up(cluster, "pod-1", "pod-2", function_id="a")
    assert drained(cluster(demand(1, 0, "b"))) == []


def test_a_function_without_a_pod_gets_one_of_the_richest_when_it_is_free_of_work() -> None:
    cluster = small(a=300, b=300)
    cluster(demand(3, 0, "a"))
    up(cluster, *pods(1, 3), function_id="a")
    busy(cluster, *pods(1, 3))
    cluster(demand(50, 3, "a"))
    actions = cluster(demand(1, 0, "b"))
    assert drained(actions) == ["pod-3"] and not of_type(actions, StopPod), "its task may end"
    cluster(PodDrained("pod-3"))
    start = only(cluster(PodLost("pod-3", "", 0)), StartPod)
    up(cluster, start.pod_id, function_id="b")
    busy(cluster, start.pod_id)
    assert drained(cluster(demand(5, 1, "b"))) == [], "it has one; for more it waits"


def test_a_pod_that_falls_idle_while_others_wait_goes_at_once() -> None:
    cluster = small(a=500, b=600)
    cluster(demand(1, 0, "a"))
    up(cluster, "pod-1", function_id="a")
    busy(cluster, "pod-1")
    cluster(demand(0, 1, "a"))
    assert cluster(demand(1, 0, "b")) == []
    assert drained(cluster(PodIdle("pod-1"))) == ["pod-1"]


def test_warm_pods_give_way_first_and_come_back() -> None:
    cluster = Cluster(warm_pods={"python": 1}, usable_mib=310)
    cluster(ControllerStarted())
    cluster(PodConnected("pod-1", 1))
    cluster.define("a", resources=Resources(memory_mib=300))
    assert only(cluster(demand(1, 0, "a")), StopPod).pod_id == "pod-1"
    assert only(cluster(PodLost("pod-1", "", 0)), StartPod).memory_mib == 300
    up(cluster, "pod-2", function_id="a")
    cluster(demand(0, 0, "a"))
    cluster.advance(60.0)
    cluster(PodDrained("pod-2"))
    assert only(cluster(PodLost("pod-2", "", 0)), StartPod).memory_mib == 0


def test_a_pod_that_can_never_fit_is_refused_with_its_numbers() -> None:
    cluster = small(a=1001)
    [refused] = news(cluster(demand(2, 0, "a")), ExecutorFailed)
    assert refused.is_refused and refused.function_id == "a"
    assert refused.text == "a pod of app/a needs 1001 MiB of memory; this host has 1000 MiB for pods"
    assert cluster(demand(0, 0, "a")) == []
    cluster.advance(1.0)
    assert news(cluster(demand(1, 0, "a")), ExecutorFailed)
    assert not news(cluster(demand(2, 0, "a")), ExecutorFailed), "who was told a moment ago may not have left yet"
    assert news(cluster.advance(1.0), ExecutorFailed)


def test_a_removed_function_waits_for_nothing() -> None:
    cluster = small(a=600, b=600)
    cluster(demand(1, 0, "a"))
    up(cluster, "pod-1", function_id="a")
    busy(cluster, "pod-1")
    cluster(demand(0, 1, "a"))
    cluster(demand(1, 0, "b"))
    cluster(FunctionRemoved("b"))
    assert not of_type(cluster(PodLost("pod-1", "", 1)), StartPod)


# --- the warm pool --------------------------------------------------------------------------------------


def test_the_warm_pool_grows_after_cold_starts_when_it_is_calm_and_shrinks_again() -> None:
    cluster = Cluster(warm_pods={"python": 1})
    cluster(ControllerStarted())
    cluster(PodConnected("pod-1", 1))
    cluster.define(scaledown_window_s=1.0)
    actions = cluster(demand(6))
    assert only(actions, BindPod).pod_id == "pod-1"
    assert len(of_type(actions, StartPod)) == 1 + 5  # the pool's own, and the cold ones
    assert len(of_type(cluster.advance(1.0), StartPod)) == 2  # 1 taken + ceil(5 / 4) = 3
    for pod_id in pods(2, 9):
        cluster(PodConnected(pod_id, 1))
    cluster(demand(0))
    states = list(cluster.states().values())
    assert states.count("warm") == 3
    ended = of_type(cluster.advance(59.5), StopPod)
    assert len(ended) == 2 and ended[0].reason == "warm pool of 1 for python"


# --- history --------------------------------------------------------------------------------------------


def test_every_change_is_remembered_with_its_reason(cluster: Cluster) -> None:
    cluster.define(scaledown_window_s=10.0)
    cluster.advance(5.0)
    burst(cluster, 2)
    cluster.advance(2.0)
    idle(cluster, "pod-1", "pod-2")
    cluster.advance(10.0)
    up_again, down = cluster.core.scaling_history("fn")
    assert (up_again.at_s, up_again.from_pods, up_again.to_pods, up_again.queued) == (5.0, 0, 2, 2)
    assert (up_again.ready, up_again.starting) == (0, 2)
    assert (down.at_s, down.from_pods, down.to_pods, down.draining, down.running) == (17.0, 2, 0, 2, 0)
    assert down.reason == "idle for 10 s; 0 queued + 0 running tasks / 1 slots = 0 pods"


def test_a_burst_that_arrives_call_by_call_is_one_decision(cluster: Cluster) -> None:
    cluster.define()
    for number in range(1, 9):
        cluster(demand(number))
        cluster.advance(0.01)
    [decision] = cluster.core.scaling_history("fn")
    assert (decision.from_pods, decision.to_pods) == (0, 8)
    assert decision.reason == "8 queued + 0 running tasks / 1 slots = 8 pods"


def test_seconds_of_pods_count_from_when_each_is_meant_for_the_function_until_it_is_gone() -> None:
    cluster = Cluster(warm_pods={"python": 1})
    warm = only(cluster(ControllerStarted()), StartPod)
    cluster(PodConnected(warm.pod_id, 7))
    cluster.advance(5.0)
    cluster.define()
    assert cluster.core.pod_s("fn", cluster.now_s) == 0.0
    assert only(cluster(demand(1)), BindPod).pod_id == warm.pod_id
    cluster(ExecutorReady(warm.pod_id, "fn", 1))
    busy(cluster, warm.pod_id)
    cluster(demand(0, 1))
    cluster.advance(2.0)
    cluster(demand(1, 1))
    cluster.advance(1.0)
    assert cluster.core.pod_s("fn", cluster.now_s) == 3.0 + 1.0
    cluster(PodLost(warm.pod_id, "killed", 1))
    cluster(demand(1, 0))
    cluster.advance(1.0)
    assert cluster.core.pod_s("fn", cluster.now_s) == 3.0 + 2.0
    assert cluster.core.pod_s("unknown", cluster.now_s) == 0.0


def test_history_is_bounded(cluster: Cluster) -> None:
    cluster.define()
    for _ in range(100):
        cluster(ScalingChanged("fn", 2, 4))
        cluster.advance(2.0)
        cluster(ScalingChanged("fn", 0, 1))
        cluster.advance(2.0)
    assert len(cluster.core.scaling_history("fn")) == 50
    assert cluster.core.scaling_history("unknown") == []


@pytest.mark.parametrize("num_lost", [1, 3])
def test_losses_are_remembered(cluster: Cluster, num_lost: int) -> None:
    cluster.define()
    burst(cluster, 3)
    for pod_id in pods(1, num_lost):
        cluster(PodLost(pod_id, "", -9))
    assert "killed by SIGKILL" in "".join(decision.reason for decision in cluster.core.scaling_history("fn"))


def test_unknown_answers_are_ignored(cluster: Cluster) -> None:
    cluster.define()
    assert cluster(DemandChanged("other", 1, 0, None)) == [] and cluster(ExecutorReady("pod-9", "fn", 1)) == []
    assert cluster.core.function_view("other") is None
