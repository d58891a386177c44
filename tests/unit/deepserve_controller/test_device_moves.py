"""A model that waits for a device which another one's engine holds: that moves first, and what can come between."""

from __future__ import annotations

from random import Random
from typing import Any

import pytest

from deepserve.protocol.ids import IdAllocator
from deepserve.protocol.model_io import JOURNAL_TOKEN_BYTES
from deepserve.protocol.specs import ModelSpec, Resources
from deepserve_controller.build import build_cluster_manager, build_job_executor
from deepserve_controller.core.actions import (
    Action,
    BindPod,
    FinishRequest,
    KillPod,
    SendPrepare,
    SendRelease,
    SendTask,
    StartPod,
    StopPod,
)
from deepserve_controller.core.cores import Cores
from deepserve_controller.core.device import Device
from deepserve_controller.core.events import (
    ExecutorFailed,
    ExecutorReady,
    FunctionDefined,
    FunctionRemoved,
    PodConnected,
    PodLost,
    PodStartFailed,
    RequestArrived,
    RequestCancelled,
    ScalingChanged,
    TaskFinished,
    TaskPrepared,
    TaskProduced,
    TaskReleased,
)
from deepserve_controller.core.placement_views import PlaceEngine
from deepserve_controller.core.status_views import PodView
from deepserve_controller.policies.model_placement import least_startup_time, without_moves
from tests.unit.deepserve_controller.harness import OK, Driven, load_in_each_pod, of_type, only, spec

HOST = (Device("npu", "0", "910c", "cpu"), Device("npu", "1", "910b", "cpu"))
BOTH, FAST = ("npu:910c", "npu:910b"), ("npu:910c",)
LONG_S = 1000.0
GB = 10**9


class Host(Driven):
    """Both cores, on a host with two NPUs: pods are `npu:910c`'s and `npu:910b`'s."""

    core: Cores

    def __init__(
        self, place: PlaceEngine = least_startup_time, devices: tuple[Device, ...] = HOST, usable_mib: int = 0
    ) -> None:
        ids = IdAllocator()
        manager = build_cluster_manager(
            ids, 4, {}, choose_source=load_in_each_pod, devices=devices, place=place, usable_mib=usable_mib
        )  # fmt: skip
        super().__init__(Cores(build_job_executor(ids, Random(1)), manager))

    def model(
        self, name: str, accelerators: tuple[str, ...], weights_bytes: int = 0, memory_mib: int = 0, **options: Any
    ) -> None:
        options = {"max_pods": 1, "max_inputs": 4, "timeout_s": LONG_S} | options
        self(
            FunctionDefined(
                name,
                spec(
                    name, kind="model", replay="resume", model=ModelSpec(name, f"/{name}"),
                    resources=Resources(accelerators=accelerators, memory_mib=memory_mib), **options,
                ),
                weights_bytes,
            )
        )  # fmt: skip

    def ask(self, request_id: str, name: str) -> list[Action]:
        return self(RequestArrived(request_id, "link", name, "stream"))

    def up(self, pod_id: str, slots: int = 4) -> list[Action]:
        """It connects and loads its model, in a second."""
        actions = self(PodConnected(pod_id, 1))
        self.now_s += 1.0
        return actions + self(ExecutorReady(pod_id, self.pod(pod_id).function_id, slots))

    def pod(self, pod_id: str) -> PodView:
        return next(pod for pod in self.core.cluster_manager.pods_view() if pod.pod_id == pod_id)

    def where(self) -> dict[str, str]:
        """By device, the function that holds it."""
        manager = self.core.cluster_manager
        return {device.model: self.pod(pod).function_id for device, pod in manager.devices_view() if pod}

    def why(self, name: str) -> str:
        view = self.core.cluster_manager.function_view(name)
        assert view is not None
        return view.reason


def busy(tokens: int = 30, weights_bytes: int = 0, **options: Any) -> Host:
    """`a` runs a stream on the 910c, `b` can run nowhere else, and knows what a start takes."""
    host = Host(**options)
    host.model("b", FAST)
    only(host.ask("rq-0", "b"), StartPod)
    host.up("pod-1")
    host(TaskFinished("task-1", 1, OK, 1.0))
    host.advance(100.0)
    host(PodLost("pod-1", "", 0))
    host.model("a", BOTH, weights_bytes)
    assert only(host.ask("rq-a", "a"), StartPod).pod_id == "pod-2"
    assert only(host.up("pod-2"), SendTask).pod_id == "pod-2"
    host(TaskProduced("task-2", 1, 0, 1, 1, tokens * JOURNAL_TOKEN_BYTES))
    assert host.where() == {"910c": "a"}
    host.now_s += 60.0
    return host


def moving(**options: Any) -> Host:
    """`b` is asked, and another pod of `a` starts."""
    host = busy(**options)
    assert only(host.ask("rq-b", "b"), StartPod).pod_id == "pod-3"
    assert host.where() == {"910c": "a", "910b": "a"}
    return host


def swapped() -> Host:
    """The stream of `a` is on its way."""
    host = moving()
    assert only(host.up("pod-3"), SendPrepare).pod_id == "pod-3"
    only(host(TaskPrepared("pod-3", "task-2", 1)), SendRelease)
    return host


def test_who_is_there_moves_away_and_then_it_loads() -> None:
    host = moving()
    reason = host.why("b")
    assert "ready in" in reason and "pod-2 moves to npu:910b first; else" in reason and "to wait for npu:910c" in reason
    bound = only(host(PodConnected("pod-3", 1)), BindPod)
    assert (bound.devices.ids, bound.spec.resources.accelerators) == (("1",), ("cpu",))
    assert "for pod-2, which gives its devices to app/b" in bound.reason
    host.now_s += 1.0
    prepare = only(host(ExecutorReady("pod-3", "a", 4)), SendPrepare)
    assert (prepare.pod_id, prepare.task_id) == ("pod-3", "task-2"), "it runs on meanwhile"
    only(host(TaskPrepared("pod-3", "task-2", 1)), SendRelease)
    actions = host(TaskReleased("task-2", 1))
    sent = only(actions, SendTask)
    assert (sent.pod_id, sent.attempt) == ("pod-3", 2)
    assert only(actions, StopPod).pod_id == "pod-2"
    assert only(host(PodLost("pod-2", "", 0)), StartPod).pod_id == "pod-4"
    assert only(host.up("pod-4"), SendTask).request_id == "rq-b"
    assert host.where() == {"910c": "b", "910b": "a"}
    assert only(host(TaskFinished("task-2", 2, OK, 1.0)), FinishRequest).timings.pod_losses == 0


def test_a_short_task_is_waited_for() -> None:
    host = busy()
    host(TaskFinished("task-2", 1, OK, 500.0))
    host.ask("rq-c", "a")
    host(TaskProduced("task-3", 1, 0, 1, 1, JOURNAL_TOKEN_BYTES))
    assert not of_type(host.ask("rq-b", "b"), StartPod)
    assert "waits for npu:910c, some" in host.why("b") and "once pod-2 moves to npu:910b" in host.why("b")
    assert only(host(TaskFinished("task-3", 1, OK, 500.0)), StopPod).pod_id == "pod-2", "idle now, it gives its device"
    assert only(host(PodLost("pod-2", "", 0)), StartPod).pod_id == "pod-3"


@pytest.mark.parametrize("is_disk_busy", [False, True])
def test_who_would_have_to_be_read_from_a_busy_disk_does_not_move(is_disk_busy: bool) -> None:
    host = busy(weights_bytes=2 * GB, usable_mib=4096)
    host.model("c", ("cpu",), 3 * GB)
    host.up(only(host.ask("rq-c", "c"), StartPod).pod_id)  # what `a` was read from is not in memory any more
    if is_disk_busy:
        host.model("d", ("cpu",), 300 * GB, memory_mib=64)
        only(host.ask("rq-d", "d"), StartPod)
    starts = of_type(host.ask("rq-b", "b"), StartPod)
    assert len(starts) == (not is_disk_busy)
    assert ("waits for npu:910c" if is_disk_busy else "pod-2 moves to npu:910b first") in host.why("b")


def test_without_moves_it_waits() -> None:
    host = busy(place=without_moves)
    assert not of_type(host.ask("rq-b", "b"), StartPod) and host.where() == {"910c": "a"}
    assert not of_type(host.advance(5.0), StartPod)


def test_what_cannot_be_resumed_stays() -> None:
    host = busy(tokens=0)
    assert not of_type(host.ask("rq-b", "b"), StartPod)
    host(TaskProduced("task-2", 1, 1, 1, 1, JOURNAL_TOKEN_BYTES))
    assert only(host.advance(1.1), StartPod).pod_id == "pod-3", "looked at again: now it can"


def test_others_of_its_model_take_over() -> None:
    """Two engines of `a` hold both devices that `b` could use: one of them is enough for what they run."""
    both = (Device("npu", "0", "910c", "cpu"), Device("npu", "1", "910c", "cpu"))
    host = Host(devices=both)
    host.model("a", FAST, max_pods=2, min_pods=1, max_inputs=2)
    host.model("b", FAST)
    for number in range(3):
        host.ask(f"rq-{number}", "a")
    for pod_id in ("pod-1", "pod-2"):
        host.up(pod_id, slots=2)
    for number in range(1, 4):
        host(TaskProduced(f"task-{number}", 1, 0, 1, 1, JOURNAL_TOKEN_BYTES))
    assert of_type(host(TaskFinished("task-1", 1, OK, 100_000.0)), FinishRequest)
    actions = host.ask("rq-b", "b")
    prepared = only(actions, SendPrepare)
    [holder] = [pod for pod in host.core.cluster_manager.pods_view() if pod.state == "draining"]
    assert prepared.pod_id != holder.pod_id and "others take over from" in host.why("b")


@pytest.mark.parametrize("how", ["start", "lost", "loading", "slow"])
def test_the_target_fails_and_nothing_has_happened(how: str) -> None:
    host = moving()
    actions: list[Action] = []
    if how == "start":
        host(PodStartFailed("pod-3", "no"))
    elif how == "slow":
        actions = host.advance(120.5)
        host(PodLost("pod-3", "", -9))
    else:
        host(PodConnected("pod-3", 1))
        actions = host(PodLost("pod-3", "", -9) if how == "lost" else ExecutorFailed("pod-3", "a", "no such kernel"))
        host(PodLost("pod-3", "", -9))
    assert not of_type(actions, FinishRequest) and not of_type(actions, SendPrepare)
    assert host.where() == {"910c": "a"} and (
        "waits for npu:910c" if how == "slow" else "pod-2 stays, for"
    ) in host.why("b")
    assert bool(of_type(actions, KillPod)) is (how in ("loading", "slow"))
    assert not of_type(host.advance(5.0), StartPod), "it is left alone for a while"
    assert of_type(host.advance(30.0), StartPod), "and then tried again"
    assert only(host(TaskFinished("task-2", 1, OK, 1.0)), FinishRequest).outcome.is_ok


def test_the_target_dies_when_the_giver_has_begun_to_leave() -> None:
    """The stream goes on where it is, and the next pod of `a` is found another place when it is done."""
    host = swapped()
    host(PodLost("pod-3", "", -9))
    actions = host(TaskReleased("task-2", 1)) + host(PodLost("pod-2", "", 0))
    starts = of_type(actions, StartPod)
    assert starts and host.where().keys() == {"910c", "910b"}, "both models get a device again"
    sent = [action for start in starts for action in of_type(host.up(start.pod_id), SendTask)]
    assert {each.request_id for each in sent} == {"rq-a", "rq-b"}


@pytest.mark.parametrize("when", ["before", "after"])
def test_the_giver_dies(when: str) -> None:
    host = moving() if when == "before" else swapped()
    actions = host(PodLost("pod-2", "", -9))
    assert only(actions, StartPod).pod_id == "pod-4", "its device is free"
    if when == "before":
        actions = host.up("pod-3")
    assert only(actions, SendTask).request_id == "rq-a"
    assert host.where() == {"910c": "b", "910b": "a"}
    assert only(host(TaskFinished("task-2", 2, OK, 1.0)), FinishRequest).timings.pod_losses == 1
    assert only(host.up("pod-4"), SendTask).request_id == "rq-b"


def test_the_sequence_ends_meanwhile() -> None:
    host = moving()
    actions = host(TaskFinished("task-2", 1, OK, 1.0))
    assert only(actions, FinishRequest).outcome.is_ok and only(actions, StopPod).pod_id == "pod-2"
    assert only(host(PodLost("pod-2", "", 0)), StartPod).pod_id == "pod-4"
    assert not of_type(host.up("pod-3"), SendPrepare)
    assert host.where() == {"910c": "b", "910b": "a"}


@pytest.mark.parametrize("how", ["cancelled", "removed"])
def test_nobody_waits_any_more(how: str) -> None:
    host = moving()
    actions = host(RequestCancelled("rq-b") if how == "cancelled" else FunctionRemoved("b"))
    actions += host(PodConnected("pod-3", 1))
    if how == "cancelled":  # what it was started for is gone only when the scaling has noticed
        actions += host.advance(120.0)
    host(PodLost("pod-3", "", 0))
    assert host.where() == {"910c": "a"} and not of_type(actions, SendPrepare)
    assert only(host(TaskFinished("task-2", 1, OK, 1.0)), FinishRequest).outcome.is_ok


def test_new_bounds_give_up_what_is_not_ready() -> None:
    host = moving()
    host(ScalingChanged("a", 0, 1))
    assert not of_type(host.up("pod-3")[-1:], StopPod) and host.pod("pod-2").state == "draining"


def test_its_function_is_removed_meanwhile() -> None:
    host = moving()
    host(FunctionRemoved("a"))
    assert host.pod("pod-2").state == "draining" and host.pod("pod-3").function_id == ""
    actions = host(TaskFinished("task-2", 1, OK, 1.0))
    assert only(actions, FinishRequest).outcome.is_ok
    assert only(host(PodLost("pod-2", "", 0)), StartPod) and host.where() == {"910c": "b"}


class Luck:
    """Carries out what the cores order, one of them at a time and by chance, and has accidents."""

    def __init__(self, seed: int) -> None:
        self.chance = Random(seed)
        self.host = Host(devices=(*HOST, Device("npu", "2", "910b", "cpu")))
        self.host.model("a", BOTH)
        self.host.model("b", FAST)
        self.host.model("c", ("npu:910c", "npu:910b:1"))
        self.asked: list[str] = []
        self.ended: list[str] = []
        self.tasks: dict[str, SendTask] = {}
        self.orders: list[SendPrepare | SendRelease | StopPod | KillPod] = []
        self.ask("a")
        self.take(self.host.up("pod-1"))
        self.produce(list(self.tasks.values()))
        self.host.now_s += 30.0
        self.ask("b")

    def take(self, actions: list[Action]) -> None:
        for action in actions:
            if isinstance(action, FinishRequest):
                self.ended.append(action.request_id)
                self.tasks.pop(action.request_id, None)
            elif isinstance(action, SendTask):
                self.tasks[action.request_id] = action
            elif isinstance(action, SendPrepare | SendRelease | StopPod | KillPod):
                self.orders.append(action)

    def ask(self, name: str) -> None:
        self.asked.append(f"rq-{len(self.asked)}")
        self.take(self.host.ask(self.asked[-1], name))

    def produce(self, tasks: list[SendTask]) -> None:
        sent = self.chance.choice(tasks)
        size_bytes = JOURNAL_TOKEN_BYTES * self.chance.randint(1, 200)
        self.take(self.host(TaskProduced(sent.task_id, sent.attempt, 0, 0, 0, size_bytes)))

    def finish(self, tasks: list[SendTask]) -> None:
        sent = self.chance.choice(tasks)
        self.take(self.host(TaskFinished(sent.task_id, sent.attempt, OK, 60_000.0)))

    def obey(self) -> None:
        order = self.orders.pop(0)
        if isinstance(order, SendPrepare):
            self.take(self.host(TaskPrepared(order.pod_id, order.task_id, order.round)))
        elif isinstance(order, SendRelease):
            self.take(self.host(TaskReleased(order.task_id, order.attempt)))
        else:
            self.take(self.host(PodLost(order.pod_id, "", 0)))

    def start(self, pods: list[PodView]) -> None:
        pod = self.chance.choice(pods)
        is_new = pod.state == "starting"
        self.take(self.host(PodConnected(pod.pod_id, 1) if is_new else ExecutorReady(pod.pod_id, pod.function_id, 4)))

    def step(self, accidents: float = 0.03) -> None:
        luck, tasks = self.chance.random(), list(self.tasks.values())
        pods = self.host.core.cluster_manager.pods_view()
        starting = [pod for pod in pods if pod.state in ("starting", "binding")]
        if luck < accidents and pods:
            self.take(self.host(PodLost(self.chance.choice(pods).pod_id, "", -9)))
        elif luck < 0.3 and tasks:
            self.produce(tasks)
        elif luck < 0.55 and self.orders:
            self.obey()
        elif luck < 0.8 and starting:
            self.start(starting)
        elif luck < 0.84 and tasks:
            self.finish(tasks)
        else:
            self.take(self.host.advance(self.chance.random() * 3.0))


def test_each_request_ends_once_whatever_happens() -> None:
    """Three models that want what one can have, and pods that die: invariants are checked after each event."""
    num_moves = 0
    for seed in range(60):
        luck = Luck(seed)
        for number in range(150):
            if number % 10 == 0:
                luck.ask(luck.chance.choice("abc"))
            luck.step()
        for _ in range(2000):
            if len(luck.ended) == len(luck.asked):
                break
            luck.step(accidents=0.0)
        assert sorted(luck.ended) == sorted(luck.asked), f"seed {seed}"
        num_moves += luck.host.core.cluster_manager.num_device_moves
    assert num_moves > 60
