"""Several models on one host: the idle one sleeps while another needs its memory, and its next task wakes it."""

from __future__ import annotations

from deepserve.protocol.specs import Resources
from deepserve_controller.core.actions import SleepPod, StartPod
from deepserve_controller.core.events import ExecutorReady as Ready
from deepserve_controller.core.events import PodBusy, PodConnected, PodIdle
from deepserve_controller.core.memory_views import IdlePod
from deepserve_controller.policies.parking import models_sleep
from tests.unit.deepserve_controller.harness import Cluster, of_type, only
from tests.unit.deepserve_controller.test_scaling import demand, drained

MIB = 500
"""Of a pod; asleep it takes 200."""


def host(usable_mib: int, *models: str, min_pods: int = 0) -> Cluster:
    cluster = Cluster(usable_mib=usable_mib)
    for name in models:
        options = {"kind": "model", "name": name, "resources": Resources(memory_mib=MIB), "max_pods": 2}
        cluster.define(name, min_pods=min_pods, **options)
    return cluster


def serve(cluster: Cluster, model: str) -> str:
    """One request of a model without a pod, which starts one; returns the pod, idle again."""
    start = only(cluster(demand(1, 0, model)), StartPod)
    cluster(PodConnected(start.pod_id, 1))
    cluster(Ready(start.pod_id, model, 32))
    cluster(PodBusy(start.pod_id))
    cluster(demand(0, 1, model))
    cluster.advance(1.0)
    cluster(PodIdle(start.pod_id))
    return start.pod_id


def asleep(cluster: Cluster) -> list[str]:
    return [pod.pod_id for pod in cluster.core.pods_view() if pod.is_asleep]


def test_the_idle_model_sleeps_and_the_other_starts_at_once() -> None:
    cluster = host(800, "a", "b")
    first = serve(cluster, "a")
    cluster.advance(2.0)
    actions = cluster(demand(1, 0, "b"))
    sleep = only(actions, SleepPod)
    assert (sleep.pod_id, sleep.level) == (first, 1)
    assert sleep.reason == "gives its memory to app/b; asleep: idle for 2 s"
    assert len(of_type(actions, StartPod)) == 1 and not drained(actions)
    assert asleep(cluster) == [first]
    assert cluster.core.scaling_history("a")[-1].reason.endswith(sleep.reason)


def test_its_next_task_wakes_it_and_puts_the_other_to_sleep() -> None:
    cluster = host(800, "a", "b")
    first = serve(cluster, "a")
    second = serve(cluster, "b")
    assert only(cluster(PodBusy(first)), SleepPod).pod_id == second
    assert asleep(cluster) == [second]
    assert not of_type(cluster(PodBusy(second)), SleepPod), "both work now: there is nobody to sleep"
    assert asleep(cluster) == []
    assert only(cluster(PodIdle(first)), SleepPod).pod_id == first, "the memory that both took is paid back"
    assert not cluster(PodIdle(second))


def test_what_sleep_does_not_make_up_for_ends() -> None:
    cluster = host(900, "a", "b", "c")
    both = [serve(cluster, "a"), serve(cluster, "b")]
    actions = cluster(demand(2, 0, "c"))
    assert sorted(drained(actions)) == both
    assert not of_type(actions, SleepPod) and not of_type(actions, StartPod), "they start when these are gone"


def test_models_that_are_kept_sleep_too_but_do_not_end() -> None:
    cluster = Cluster(usable_mib=800)
    options = {"kind": "model", "resources": Resources(memory_mib=MIB)}
    start = only(cluster.define("a", name="a", min_pods=1, **options), StartPod)
    cluster(PodConnected(start.pod_id, 1))
    cluster(Ready(start.pod_id, "a", 32))
    cluster.define("b", name="b", **options)
    actions = cluster(demand(1, 0, "b"))
    assert only(actions, SleepPod).pod_id == start.pod_id and not drained(actions)
    assert len(of_type(actions, StartPod)) == 1


def test_functions_do_not_sleep() -> None:
    cluster = Cluster(usable_mib=800)
    for name in ("a", "b"):
        cluster.define(name, name=name, resources=Resources(memory_mib=MIB))
    first = serve(cluster, "a")
    actions = cluster(demand(1, 0, "b"))
    assert drained(actions) == [first] and not of_type(actions, SleepPod)


def test_the_policy_says_why() -> None:
    assert models_sleep(IdlePod("pod-1", "model", False, 3.0)) == (1, "asleep: idle for 3 s")
    assert models_sleep(IdlePod("pod-1", "model", True, 3.0)).level == 0
    assert models_sleep(IdlePod("pod-1", "function", False, 3.0)) == (0, "idle for 3 s")
    assert models_sleep(IdlePod("pod-1", "tokenizer", False, 3.0)).level == 0
