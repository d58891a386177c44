"""How pods are started, bound, scaled and stopped."""

from __future__ import annotations

from deepserve.protocol.specs import Resources
from deepserve_controller.core.actions import BindPod, KillPod, StartPod, StopPod
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
    PodStartFailed,
    PodStuck,
    ScalingChanged,
)
from tests.unit.deepserve_controller.harness import Cluster, news, of_type, only


def demand(queued: int, running: int = 0, function_id: str = "fn") -> DemandChanged:
    return DemandChanged(function_id, queued, running, None)


def up(cluster: Cluster, *pod_ids: str, slots: int = 1, function_id: str = "fn") -> None:
    """Pods that were asked for connect and bind."""
    for pod_id in pod_ids:
        cluster(PodConnected(pod_id, 1))
        cluster(ExecutorReady(pod_id, function_id, slots))


# --- starting and binding -------------------------------------------------------------------------------


def test_demand_starts_a_pod_that_is_bound_when_it_connects(cluster: Cluster) -> None:
    cluster.define()
    start = only(cluster(demand(1)), StartPod)
    assert (start.pod_id, start.environment) == ("pod-1", "python")
    assert start.reason == "1 queued + 0 running tasks / 1 slots = 1 pods"
    bind = only(cluster(PodConnected("pod-1", 7)), BindPod)
    assert (bind.pod_id, bind.function_id) == ("pod-1", "fn")
    cluster(ExecutorReady("pod-1", "fn", 1))
    [pod] = cluster.core.pods_view()
    assert (pod.state, pod.label, pod.pid, pod.reason) == ("bound", "app/f", 7, start.reason)


def test_starting_pods_count_so_demand_is_answered_once(cluster: Cluster) -> None:
    cluster.define()
    assert len(of_type(cluster(demand(3)), StartPod)) == 3
    assert not cluster(demand(3))
    assert len(of_type(cluster(demand(4)), StartPod)) == 1


def test_slots_divide_demand_by_the_spec_first_and_then_as_the_pods_say(cluster: Cluster) -> None:
    cluster.define(max_inputs=2)
    assert len(of_type(cluster(demand(5)), StartPod)) == 3
    up(cluster, "pod-1", slots=32)
    assert not cluster(demand(90))
    assert len(of_type(cluster(demand(97)), StartPod)) == 1


def test_the_bound_is_the_functions_or_the_hosts(cluster: Cluster) -> None:
    cluster.define("fn")
    cluster.define("fn-3", max_pods=3)
    assert len(of_type(cluster(demand(100)), StartPod)) == 8
    assert len(of_type(cluster(demand(100, 0, "fn-3")), StartPod)) == 3
    [view, _] = cluster.core.functions_view()
    assert view.reason == "100 queued + 0 running tasks / 1 slots = 100 pods, at most 8"


def test_min_pods_start_with_the_definition_and_buffer_pods_beside_demand(cluster: Cluster) -> None:
    assert len(of_type(cluster.define("fn-min", min_pods=2), StartPod)) == 2
    cluster.define("fn-buffer", buffer_pods=2)
    assert len(of_type(cluster(demand(1, 0, "fn-buffer")), StartPod)) == 3
    up(cluster, "pod-3", "pod-4", "pod-5", function_id="fn-buffer")
    assert not cluster(PodBusy("pod-3"))
    assert not cluster(demand(0, 1, "fn-buffer"))
    assert len(of_type(cluster(PodBusy("pod-4")), StartPod)) == 1  # routed at once: no demand was reported


def test_the_warm_pool_is_filled_taken_from_and_refilled() -> None:
    cluster = Cluster(warm_pods={"python": 2})
    assert len(of_type(cluster(ControllerStarted()), StartPod)) == 2
    cluster(PodConnected("pod-2", 2))
    cluster(PodConnected("pod-1", 1))
    cluster.define()
    actions = cluster(demand(1))
    assert only(actions, BindPod).pod_id == "pod-1"  # the smallest id
    assert only(actions, StartPod).pod_id == "pod-3"
    assert cluster.states() == {"pod-1": "binding", "pod-2": "warm", "pod-3": "starting"}


def test_a_warm_pod_without_the_memory_limit_does_not_fit() -> None:
    cluster = Cluster(warm_pods={"python": 1})
    cluster(ControllerStarted())
    cluster(PodConnected("pod-1", 1))
    cluster.define(resources=Resources(memory_mib=512))
    start = only(cluster(demand(1)), StartPod)
    assert start.memory_mib == 512
    assert only(cluster(PodConnected(start.pod_id, 2)), BindPod).pod_id == start.pod_id


def test_the_first_pod_to_connect_goes_to_who_waits() -> None:
    cluster = Cluster(warm_pods={"python": 1})
    cluster(ControllerStarted())
    cluster.define()
    assert only(cluster(demand(1)), StartPod).pod_id == "pod-2"
    assert only(cluster(PodConnected("pod-1", 1)), BindPod).pod_id == "pod-1"
    assert not cluster(PodConnected("pod-2", 2))
    assert cluster.states() == {"pod-1": "binding", "pod-2": "warm"}


# --- scaling down ---------------------------------------------------------------------------------------


def test_an_idle_pod_stops_after_its_window_and_not_before(cluster: Cluster) -> None:
    cluster.define(scaledown_window_s=10.0)
    cluster(demand(1))
    up(cluster, "pod-1")
    cluster(PodBusy("pod-1"))
    cluster(demand(0, 1))
    cluster.advance(8.0)
    cluster(PodIdle("pod-1"))
    assert not cluster.advance(9.9)
    assert news(cluster.advance(0.1), PodDrainStarted) == [PodDrainStarted("pod-1")]
    stop = only(cluster(PodDrained("pod-1")), StopPod)
    assert stop.reason.startswith("idle for 10 s; 0 queued")
    cluster(PodLost("pod-1", "", 0))
    assert cluster.states() == {}


def test_work_within_the_window_starts_it_again(cluster: Cluster) -> None:
    cluster.define(scaledown_window_s=10.0)
    cluster(demand(1))
    up(cluster, "pod-1")
    cluster(demand(0, 1))
    for _ in range(5):
        assert not cluster.advance(6.0)
        cluster(PodBusy("pod-1"))
        cluster(PodIdle("pod-1"))
    assert news(cluster.advance(10.0), PodDrainStarted)


def test_min_pods_stay(cluster: Cluster) -> None:
    cluster.define(scaledown_window_s=1.0, min_pods=1)
    cluster(demand(3))
    up(cluster, "pod-1", "pod-2", "pod-3")
    cluster(demand(0))
    drained = news(cluster.advance(60.0), PodDrainStarted)
    assert [event.pod_id for event in drained] == ["pod-1", "pod-2"]


def test_a_lost_idle_pod_is_not_replaced_without_demand(cluster: Cluster) -> None:
    cluster.define()
    cluster(demand(1))
    up(cluster, "pod-1")
    cluster(PodBusy("pod-1"))
    cluster(demand(0, 1))
    cluster(PodIdle("pod-1"))
    assert not cluster(PodLost("pod-1", "", 1))


def test_a_lost_pod_is_replaced_while_tasks_wait(cluster: Cluster) -> None:
    cluster.define(max_pods=1)
    cluster(demand(2))
    up(cluster, "pod-1")
    cluster(PodBusy("pod-1"))
    cluster(demand(1, 1))
    assert only(cluster(PodLost("pod-1", "", 1)), StartPod).pod_id == "pod-2"


def test_new_bounds_drain_what_is_over_and_start_what_is_missing(cluster: Cluster) -> None:
    cluster.define()
    cluster(demand(4))
    up(cluster, "pod-1", "pod-2", "pod-3")
    cluster(PodBusy("pod-1"))
    cluster(PodConnected("pod-4", 4))
    actions = cluster(ScalingChanged("fn", 0, 1))
    assert [event.pod_id for event in news(actions, PodDrainStarted)] == ["pod-4", "pod-3", "pod-2"]
    assert only(actions, KillPod).pod_id == "pod-4"
    assert len(of_type(cluster(ScalingChanged("fn", 3, 3)), StartPod)) == 2


def test_a_removed_function_gives_its_pods_back() -> None:
    cluster = Cluster(warm_pods={"python": 1})
    cluster.define()
    cluster(demand(3))
    up(cluster, "pod-1")
    cluster(PodConnected("pod-2", 2))
    actions = cluster(FunctionRemoved("fn"))
    assert [event.pod_id for event in news(actions, PodDrainStarted)] == ["pod-1", "pod-2"]
    assert only(actions, KillPod).pod_id == "pod-2"
    cluster(PodConnected("pod-3", 3))
    assert cluster.states() == {"pod-1": "draining", "pod-2": "stopped", "pod-3": "warm"}
    assert not cluster(demand(5))


# --- failures -------------------------------------------------------------------------------------------


def test_failed_starts_are_tried_again_and_then_told(cluster: Cluster) -> None:
    cluster.define()
    cluster(demand(1))
    assert not cluster(PodStartFailed("pod-1", "no memory"))
    assert only(cluster.advance(0.1), StartPod).pod_id == "pod-2"
    assert only(cluster(PodConnected("pod-2", 2)), BindPod)
    assert not cluster(PodLost("pod-2", "", 1))
    assert not cluster.advance(0.1)
    assert only(cluster.advance(0.1), StartPod).pod_id == "pod-3"
    cluster(PodConnected("pod-3", 3))
    [failed] = news(cluster(PodLost("pod-3", "", -11)), ExecutorFailed)
    assert failed.function_id == "fn"
    assert failed.text == "pod-3 ended while loading app/f: killed by SIGSEGV (3 tries)"
    assert not cluster.advance(60.0)
    assert only(cluster(demand(1)), StartPod)  # new demand tries anew


def test_pods_that_fail_together_count_once(cluster: Cluster) -> None:
    cluster.define()
    cluster(demand(5))
    for number in range(1, 6):
        assert not cluster(PodStartFailed(f"pod-{number}", "no memory"))
    assert len(of_type(cluster.advance(0.1), StartPod)) == 5


def test_a_binding_error_ends_all_starts_until_new_demand(cluster: Cluster) -> None:
    cluster.define(min_pods=1)
    cluster(demand(3))
    cluster(PodConnected("pod-1", 1))
    cluster(PodConnected("pod-2", 2))
    actions = cluster(ExecutorFailed("pod-1", "fn", "ImportError"))
    assert [kill.pod_id for kill in of_type(actions, KillPod)] == ["pod-1", "pod-2"]
    assert not of_type(cluster(demand(0)) + cluster(PodLost("pod-1", "", -9)), StartPod)
    assert only(cluster(PodConnected("pod-3", 3)), StopPod)  # nobody's any more
    [start] = of_type(cluster(demand(1)), StartPod)
    view = cluster.core.function_view("fn")
    assert view is not None and view.broken_because.endswith(" could not be loaded: ImportError")
    cluster(PodConnected(start.pod_id, 4))
    cluster(ExecutorReady(start.pod_id, "fn", 1))
    view = cluster.core.function_view("fn")
    assert view is not None and not view.broken_because


def test_start_and_load_have_one_clock_and_slow_code_is_not_tried_again(cluster: Cluster) -> None:
    cluster.define(startup_timeout_s=5.0)
    cluster(demand(1))
    cluster.advance(1.0)
    cluster(PodConnected("pod-1", 1))
    assert not cluster.advance(3.9)
    actions = cluster.advance(0.1)
    assert only(actions, KillPod).reason == "pod-1 was still loading app/f after 4 s"
    [failed] = news(actions, ExecutorFailed)
    assert failed.is_slow
    assert failed.text == "not ready within its startup_timeout of 5 s: pod-1 was still loading app/f after 4 s"
    assert not of_type(cluster.advance(1.0) + cluster(PodLost("pod-1", "killed", -9)), StartPod)
    assert not cluster(ExecutorReady("pod-1", "fn", 1))
    assert only(cluster(demand(1)), StartPod).pod_id == "pod-2"


def test_a_pod_that_does_not_connect_in_time_is_tried_three_times(cluster: Cluster) -> None:
    cluster.define(startup_timeout_s=5.0)
    cluster(demand(1))
    killed, failed = [], []
    for _ in range(3):
        actions = cluster.advance(5.2)
        killed += [kill.pod_id for kill in of_type(actions, KillPod)]
        failed += news(actions, ExecutorFailed)
    assert killed == ["pod-1", "pod-2", "pod-3"]
    assert [(event.is_slow, event.text.endswith("after 5 s (3 tries)")) for event in failed] == [(True, True)]


def test_a_stuck_pod_is_replaced_where_there_is_demand_and_is_not_stopped_twice(cluster: Cluster) -> None:
    cluster.define(max_pods=1, max_inputs=2)
    cluster(demand(1))
    cluster(PodConnected("pod-1", 1))
    cluster(ExecutorReady("pod-1", "fn", 2))
    cluster(PodBusy("pod-1"))
    cluster(demand(0, 2))
    assert not cluster(PodStuck("pod-1", "task-1 did not stop within 1 s"))
    assert cluster.states() == {"pod-1": "draining"}
    assert only(cluster(demand(1, 1)), StartPod).pod_id == "pod-2"  # max_pods counts those that take work
    assert not cluster(PodStuck("pod-1", "again")) and not cluster(PodLost("pod-1", "killed", -9))
    assert cluster.states() == {"pod-2": "starting"}


def test_warm_pods_that_do_not_start_are_not_tried_for_ever() -> None:
    cluster = Cluster(warm_pods={"python": 1})
    cluster(ControllerStarted())
    assert only(cluster(PodStartFailed("pod-1", "template failed")), StartPod)
    assert only(cluster(PodStartFailed("pod-2", "template failed")), StartPod)
    assert not cluster(PodStartFailed("pod-3", "template failed"))
    cluster.define()
    start = only(cluster(demand(1)), StartPod)
    cluster(PodConnected(start.pod_id, 4))  # it works again
    again = of_type(cluster(PodLost(start.pod_id, "", 1)) + cluster.advance(1.0), StartPod)
    assert len(again) == 2  # for the function, and for the pool


def test_events_of_unknown_pods_and_functions_are_ignored(cluster: Cluster) -> None:
    for event in (PodConnected("x", 1), PodLost("x", "", 1), PodIdle("x"), PodBusy("x"), PodDrained("x"), demand(4)):
        assert not cluster(event)
    assert not cluster(ExecutorReady("x", "fn", 1)) and not cluster(ExecutorFailed("x", "fn", ""))
    assert not cluster(FunctionRemoved("fn")) and not cluster(ScalingChanged("fn", 1, 2))
