"""Who gets which of the host's NPUs and GPUs: a host that pretends to have eight of them."""

from __future__ import annotations

from random import Random
from typing import Any

import pytest

from deepserve.protocol.specs import ModelSpec, Resources
from deepserve_controller.core.actions import Action, BindPod, StartPod
from deepserve_controller.core.device import Allotment, Device
from deepserve_controller.core.events import (
    ExecutorFailed,
    PodConnected,
    PodDrained,
    PodLost,
    PodStartFailed,
)
from deepserve_controller.core.host_devices import HostDevices, read_wish
from tests.unit.deepserve_controller.harness import Cluster, news, of_type, only, spec
from tests.unit.deepserve_controller.test_cluster_manager import demand, up
from tests.unit.deepserve_controller.test_scaling import drained, idle, pods

NPUS = tuple(Device("npu", str(number), "910c") for number in range(8))
GPUS = tuple(Device("gpu", str(number), "h100-80gb-hbm3") for number in range(2))


def wanting(*accelerators: str, tensor_parallel: int = 0, **options: Any) -> Any:
    model = ModelSpec("m", "/m", tensor_parallel=tensor_parallel) if tensor_parallel else None
    kind = "model" if model else "function"
    return spec("a", resources=Resources(accelerators=accelerators), model=model, kind=kind, **options)


def eight(**functions: str) -> Cluster:
    """With functions that each want an accelerator."""
    cluster = Cluster(devices=NPUS + GPUS)
    for name, accelerator in functions.items():
        cluster.define(name, name=name, resources=Resources(accelerators=tuple(accelerator.split(" or "))))
    return cluster


def bind(cluster: Cluster, *pod_ids: str) -> list[BindPod]:
    actions: list[Action] = []
    for pod_id in pod_ids:
        actions += cluster(PodConnected(pod_id, 1))
    return of_type(actions, BindPod)


@pytest.mark.parametrize(
    ("text", "wish"),
    [
        ("npu", ("npu", "", 1)),
        ("npu::2", ("npu", "", 2)),
        ("npu:910c", ("npu", "910c", 1)),
        ("npu:910c:8", ("npu", "910c", 8)),
        ("gpu:910", ("gpu", "910", 1)),
    ],
)
def test_one_grammar(text: str, wish: tuple[str, str, int]) -> None:
    assert read_wish(text)[1:4] == wish


@pytest.mark.parametrize(
    ("accelerators", "got"),
    [
        ((), Allotment()),
        (("cpu",), Allotment("cpu", "cpu")),
        (("npu:910c:2", "cpu"), Allotment("npu:910c:2", "npu", ("0", "1"))),
        (("npu:910b", "gpu:H100::".rstrip(":"), "cpu"), Allotment("gpu:H100", "gpu", ("0",))),
        (("gpu:h200", "npu::8"), Allotment("npu::8", "npu", tuple("01234567"))),
        (("gpu::3", "cpu"), Allotment("cpu", "cpu")),
    ],
)
def test_the_first_choice_that_the_host_has(accelerators: tuple[str, ...], got: Allotment) -> None:
    assert HostDevices({}, NPUS + GPUS).choose(wanting(*accelerators)) == got


def test_what_can_never_fit_names_what_the_host_has() -> None:
    devices = HostDevices({}, NPUS + GPUS, engine_kinds=("npu", "cpu"))
    assert devices.never_fits(wanting("npu::8")) == "" == devices.never_fits(wanting("npu:910b", "cpu"))
    has = "this host has 8 npu:910c, 2 gpu:h100-80gb-hbm3"
    assert devices.never_fits(wanting("npu::9", "gpu:h200")) == f"a pod of app/a needs npu::9 or gpu:h200; {has}"
    text = f"a pod of app/a needs gpu, 2 at a time; {has}, and models run on npu, cpu"
    assert devices.never_fits(wanting("gpu", tensor_parallel=2)) == text
    assert "no NPU and no GPU" in HostDevices({}).never_fits(wanting("npu"))


def test_the_ranks_of_a_model_are_all_there_or_none() -> None:
    devices = HostDevices({}, NPUS[:6], engine_kinds=("npu", "cpu"))
    assert devices.choose(wanting("npu", tensor_parallel=4)) == Allotment("npu", "npu", ("0", "1", "2", "3"))
    assert "8 at a time" in devices.never_fits(wanting("npu", tensor_parallel=8))
    mixed = HostDevices({}, (*NPUS[:3], *(Device("npu", str(n), "910b") for n in (3, 4))))
    assert mixed.choose(wanting("npu::2")) == Allotment("npu::2", "npu", ("3", "4")), "the larger group stays whole"
    assert "needs npu::4" in mixed.never_fits(wanting("npu::4")), "never of two models"


def test_models_go_where_the_engine_can() -> None:
    devices = HostDevices({}, NPUS + GPUS)
    assert devices.choose(wanting("npu", "gpu", "cpu", tensor_parallel=1)) == Allotment("cpu", "cpu")
    assert devices.never_fits(wanting("npu", tensor_parallel=1)).endswith("and models run on cpu")


def test_models_go_to_what_is_pretended() -> None:
    devices = HostDevices({}, (Device("npu", "0", "910c"), Device("npu", "1", "910b", "cpu")))
    spec = wanting("npu", "cpu", tensor_parallel=1)
    assert devices.choose(spec) == Allotment("npu", "npu", ("1",), "cpu")
    assert devices.choose(spec, "cpu") == Allotment("cpu", "cpu") and devices.choose(spec, "npu:910c") is None
    assert devices.choose(wanting("npu:910c")) == Allotment("npu:910c", "npu", ("0",))
    assert devices.places(spec) == {"npu:910b": 1, "cpu": 1}
    assert devices.places(wanting("npu::1")) == {"npu:910c": 1, "npu:910b": 1}
    assert devices.free() == {"cpu": 1 << 30, "npu:910c": 1, "npu:910b": 1}


def test_pods_hold_devices_of_their_own_until_they_are_gone() -> None:
    cluster = eight(a="npu::3")
    assert len(of_type(cluster(demand(5, 0, "a")), StartPod)) == 2
    assert [order.devices.ids for order in bind(cluster, *pods(1, 2))] == [("0", "1", "2"), ("3", "4", "5")]
    [view] = cluster.core.functions_view()
    assert view.reason.endswith("waits for npu::3: pod-1 holds 3, pod-2 holds 3")
    assert [pod_id for _, pod_id in cluster.core.devices_view()] == ["pod-1"] * 3 + ["pod-2"] * 3 + [""] * 4
    cluster(PodLost("pod-1", "", -9))
    assert only(cluster.advance(1.0), StartPod).pod_id == "pod-3"
    [order] = bind(cluster, "pod-3")
    assert order.devices == Allotment("npu::3", "npu", ("0", "1", "2"))
    assert order.spec.resources.accelerators == ("npu::3",)


def test_shares_of_the_cpus_follow_the_weights() -> None:
    cluster = Cluster()
    cluster.define("a", name="a", resources=Resources(cpu=3.0))
    cluster.define("b", name="b", resources=Resources(cpu=1.0))
    assert cluster.core.cpu_shares(8) == {}
    cluster(demand(1, 0, "a"))
    assert cluster.core.cpu_shares(8) == {"pod-1": 8.0}, "alone it has all"
    cluster(demand(2, 0, "b"))
    assert cluster.core.cpu_shares(8) == pytest.approx({"pod-1": 4.8, "pod-2": 1.6, "pod-3": 1.6})


def test_a_pod_that_never_starts_holds_nothing_for_long() -> None:
    cluster = eight(a="npu::8")
    cluster(demand(1, 0, "a"))
    cluster(PodStartFailed("pod-1", "no"))
    assert not any(pod_id for _, pod_id in cluster.core.devices_view())
    assert of_type(cluster.advance(1.0), StartPod), "and the next one gets them"


def test_falls_back_while_the_first_choice_is_taken() -> None:
    cluster = eight(a="npu::8", b="npu::4 or gpu or cpu")
    cluster(demand(1, 0, "a"))
    cluster(demand(3, 0, "b"))
    kinds = {order.pod_id: order.devices.kind for order in bind(cluster, *pods(1, 4))}
    assert kinds == {"pod-1": "npu", "pod-2": "gpu", "pod-3": "gpu", "pod-4": "cpu"}


def test_idle_pods_of_others_give_their_devices_and_are_waited_for() -> None:
    cluster = eight(a="npu::4", b="npu::6")
    cluster(demand(2, 0, "a"))
    up(cluster, *pods(1, 2), function_id="a")
    cluster(demand(0, 0, "a"))
    cluster.advance(1.0)
    idle(cluster, *pods(1, 2))
    actions = cluster(demand(1, 0, "b"))
    assert drained(actions) == ["pod-1", "pod-2"] and not of_type(actions, StartPod)
    assert drained(cluster(demand(2, 0, "b"))) == [], "they are leaving already"
    cluster(PodDrained("pod-1"))
    assert not of_type(cluster(PodLost("pod-1", "", 0)), StartPod), "four of the six are not enough"
    cluster(PodDrained("pod-2"))
    start = only(cluster(PodLost("pod-2", "", 0)), StartPod)
    [order] = bind(cluster, start.pod_id)
    assert order.devices.ids == tuple("012345")


def test_a_function_that_wants_what_is_not_there_ends_at_once() -> None:
    cluster = eight(a="gpu:h200")
    failed = news(cluster(demand(1, 0, "a")), ExecutorFailed)
    assert [(event.is_refused, event.function_id) for event in failed] == [(True, "a")]
    assert "needs gpu:h200; this host has 8 npu:910c, 2 gpu:h100" in failed[0].text
    assert cluster.core.why_never(wanting("gpu:h200"))


def test_no_device_is_ever_held_twice_whatever_happens() -> None:
    """Invariants are checked after each event."""
    for number in range(20):
        chance = Random(number)
        cluster = eight(a="npu::3", b="npu:910c or gpu", c="gpu::2 or cpu", d="npu::8 or npu::4")
        alive: list[str] = []
        for _ in range(60):
            actions = cluster(demand(chance.randint(0, 4), 0, chance.choice("abcd")))
            if alive and chance.random() < 0.7:
                pod_id = chance.choice(alive)
                event = chance.choice([PodConnected(pod_id, 1), PodConnected(pod_id, 1), PodLost(pod_id, "", -9)])
                actions += cluster(event)
            actions += cluster.advance(chance.random())
            alive += [start.pod_id for start in of_type(actions, StartPod)]
            alive = [pod_id for pod_id in alive if pod_id in cluster.states()]
