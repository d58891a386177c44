"""What each pod may take of the host's memory is decided before it starts, and never more than there is."""

from __future__ import annotations

from typing import Any

from hypothesis import given, settings
from hypothesis import strategies as st

from deepserve.protocol.messages import PodMemory, Weights
from deepserve.protocol.specs import Resources
from deepserve_controller.core.actions import BindPod, SleepPod, StartPod, StartTemplate, StopTemplate
from deepserve_controller.core.device import Device
from deepserve_controller.core.events import (
    DemandChanged,
    ExecutorFailed,
    ExecutorReady,
    FunctionDefined,
    PodBusy,
    PodConnected,
    PodDrained,
    PodIdle,
    PodLost,
    TemplateLost,
    TemplateReady,
    TemplateRefused,
    WeightsFound,
)
from deepserve_controller.core.memory_claims import SHARES, MemoryClaims, MemoryNeed, divide
from deepserve_controller.policies.pod_source import fork_bursts
from tests.unit.deepserve_controller.harness import Cluster, news, of_type, only, spec
from tests.unit.deepserve_controller.test_scaling import drained

MIB = 1 << 20
PROCESS_MIB = 256
"""Of a template, and of a pod of a model that was not measured."""

NEEDS = st.builds(
    lambda base_mib, least_mib, more_mib: MemoryNeed(base_mib, least_mib, least_mib + more_mib),
    st.integers(1, 1000), st.integers(1, 1000), st.integers(0, 5000),
)  # fmt: skip


# --- the division ---------------------------------------------------------------------------------------


@given(NEEDS, st.integers(-100, 10**5), st.integers(-1, 100), st.integers(0, 10**5))
def test_a_claim_is_within_what_is_left_and_what_is_needed(
    need: MemoryNeed, left_mib: int, num_to_come: int, taken_mib: int
) -> None:
    claim = divide(need, left_mib, num_to_come, usable_mib := max(left_mib, 0) + taken_mib)
    if claim is None:
        assert left_mib < need.least_mib
        return
    assert claim.total_mib <= left_mib
    assert need.least_kv_mib <= claim.kv_mib <= need.kv_mib and claim.base_mib == need.base_mib
    assert claim.kv_mib == need.least_kv_mib or claim.kv_mib <= usable_mib // SHARES


@given(NEEDS, st.integers(1, 100), st.integers(0, 10**5))
def test_none_takes_what_a_later_one_needs_at_least(need: MemoryNeed, number: int, spare_mib: int) -> None:
    usable_mib = left_mib = number * need.least_mib + spare_mib
    for num_to_come in range(number, 0, -1):
        claim = divide(need, left_mib, num_to_come, usable_mib)
        assert claim is not None, f"nothing is left for the last {num_to_come} of {number}"
        left_mib -= claim.total_mib


def test_all_of_a_burst_get_about_the_same() -> None:
    """64 pods of a small model on a host of 24 GiB."""
    need, left_mib, given_mib = MemoryNeed(PROCESS_MIB, 12, 393), 20700, []
    for num_to_come in range(64, 0, -1):
        claim = divide(need, left_mib, num_to_come, 20700)
        assert claim is not None
        left_mib -= claim.total_mib
        given_mib.append(claim.kv_mib)
    assert (min(given_mib), max(given_mib)) == (67, 68)


@given(st.integers(0, 10**6), st.integers(0, 10**12), st.integers(0, 10**12))
def test_needs_are_as_told(private_bytes: int, least_bytes: int, kv_bytes: int) -> None:
    claims, model = MemoryClaims(), spec("m", kind="model", environment="flowserve")
    claims.learn("fn", "flowserve", PodMemory(kv_bytes, least_bytes, private_bytes))
    need = claims.need("fn", model)
    assert need.least_kv_mib * MIB >= least_bytes and need.kv_mib * MIB >= max(kv_bytes, least_bytes)
    assert need.base_mib * MIB >= private_bytes and need.base_mib > 0
    limited = spec("m", kind="model", environment="flowserve", resources=Resources(memory_mib=77))
    assert claims.need("fn", limited) == MemoryNeed(77), "what was said is what counts"
    claims.forget("fn")
    assert claims.need("fn", model) == MemoryNeed(PROCESS_MIB)


# --- models on a host -----------------------------------------------------------------------------------


class Models(Cluster):
    """Models whose weights have `weights` MiB, and whose pods take `kv` MiB for KV, `least` at least."""

    def __init__(self, usable_mib: int, **options: Any) -> None:
        super().__init__(choose_source=fork_bursts, usable_mib=usable_mib, **options)

    def model(self, name: str, checkpoint: int = 0, **options: Any) -> list[Any]:
        return self(
            FunctionDefined(name, spec(name, kind="model", environment="flowserve", **options), checkpoint * MIB)
        )

    def ask(self, name: str, num_pods: int = 1) -> list[Any]:
        """As many requests as take so many pods."""
        return self(DemandChanged(name, num_pods, 0, 0.0))

    def loaded(self, order: StartTemplate, weights: int = 100, kv: int = 400, least: int = 40) -> list[StartPod]:
        memory = PodMemory(kv * MIB, least * MIB)
        ready = TemplateReady(order.template_id, 1, weights=Weights(weights * MIB), memory=memory)
        return of_type(self(ready), StartPod)

    def up(self, start: StartPod, name: str, least: int = 40) -> None:
        self(PodConnected(start.pod_id, 1))
        memory = PodMemory(start.kv_bytes, least * MIB)
        self(ExecutorReady(start.pod_id, name, 32, memory=memory))

    def serve(self, name: str, **told: int) -> StartPod:
        """One request of a model that has nothing yet; its pod is idle again."""
        [start] = self.loaded(only(self.ask(name), StartTemplate), **told)
        self.up(start, name)
        self(PodBusy(start.pod_id))
        self(DemandChanged(name, 0, 1, 0.0))
        self.advance(1.0)
        self(PodIdle(start.pod_id))
        self(DemandChanged(name, 0, 0, 0.0))
        return start

    @property
    def used_mib(self) -> int:
        return self.core.memory_view()[0]


def test_a_pod_is_told_what_its_kv_may_take_and_weights_count_once() -> None:
    host = Models(4000)
    host.model("a", max_pods=4)
    starts = host.loaded(only(host.ask("a", 4), StartTemplate), weights=1000, kv=100)
    assert [start.kv_bytes for start in starts] == [100 * MIB] * 4
    assert host.used_mib == PROCESS_MIB + 1000 + 4 * (PROCESS_MIB + 100)
    for start in starts:
        host(PodLost(start.pod_id, "", 0))
    view = host.core.memory_need("a")
    assert (view.pod_mib, view.least_kv_mib, view.kv_mib, view.weights_mib) == (PROCESS_MIB, 40, 100, 1000)


def test_where_less_is_left_a_pod_gets_less_and_the_next_one_waits() -> None:
    host = Models(PROCESS_MIB + 100 + 3 * (PROCESS_MIB + 40) + 30)
    host.model("a", max_pods=8)
    starts = host.loaded(only(host.ask("a", 8), StartTemplate))
    assert [start.kv_bytes // MIB for start in starts] == [50, 50, 50]
    view = host.core.function_view("a")
    assert view is not None and view.reason.endswith(
        "waits for memory: a pod needs 296 MiB, 1274 of 1274 MiB are taken"
    )


def test_a_pod_that_ends_gives_its_claim_back() -> None:
    host = Models(2000)
    host.model("a", max_pods=1)
    start = host.serve("a")
    before = host.used_mib
    host(PodLost(start.pod_id, "killed by SIGKILL", -9))
    assert host.used_mib == before - PROCESS_MIB - start.kv_bytes // MIB


def test_cached_weights_give_way_before_a_pod_gets_less() -> None:
    host = Models(2300)
    host.model("a", max_pods=1)
    host.model("b", max_pods=1)
    host(PodLost(host.serve("a", weights=1200).pod_id, "", 0))
    order = only(host.ask("b"), StartTemplate)
    assert host.used_mib == 2 * PROCESS_MIB + 1200, "a pod would have 232 MiB for KV beside the weights of both"
    told = PodMemory(290 * MIB, 40 * MIB)
    actions = host(TemplateReady(order.template_id, 1, weights=Weights(100 * MIB), memory=told))
    assert only(actions, StopTemplate).reason == "gives its memory to app/b"
    assert only(actions, StartPod).kv_bytes // MIB == 2300 // SHARES


def test_who_has_no_room_for_its_template_waits_and_idle_models_sleep() -> None:
    host = Models(1600)
    for name in ("a", "b"):
        host.model(name, checkpoint=500, max_pods=1)
    first = host.serve("a", weights=500, kv=400, least=400)
    assert host.used_mib == 2 * PROCESS_MIB + 900
    actions = host.ask("b")
    assert not of_type(actions, StartPod) and drained(actions) + [a.pod_id for a in of_type(actions, SleepPod)]
    view = host.core.function_view("b")
    assert view is not None and "waits for memory: a template and a pod needs 1012 MiB" in view.reason
    host(PodDrained(first.pod_id))
    actions = host(PodLost(first.pod_id, "", 0))
    assert of_type(actions, StopTemplate), "weights that nobody uses any more go too"
    assert len(host.loaded(only(actions, StartTemplate), weights=500)) == 1


def test_what_can_never_fit_is_refused_and_says_what_it_would_need() -> None:
    """Who has loaded it says what it takes: quantised weights are smaller than their checkpoint."""
    host = Models(1000)
    host.model("a", checkpoint=5000)
    order = only(host.ask("a"), StartTemplate)
    told = PodMemory(900 * MIB, 700 * MIB)
    actions = host(TemplateReady(order.template_id, 1, weights=Weights(100 * MIB), memory=told))
    assert not of_type(actions, StartPod)
    assert only(actions, StopTemplate).template_id == order.template_id, "nobody can use it"
    [refused] = news(actions, ExecutorFailed)
    assert refused.is_refused and refused.text == (
        "a pod of app/a needs 1312 MiB of memory (700 MiB for the KV of one sequence, 356 MiB for the weights and who "
        "loads them); this host has 1000 MiB for pods"
    )
    host.advance(1.0)
    assert news(host.ask("a"), ExecutorFailed), "that is known now"
    host.model("b", checkpoint=5000)
    order = only(host.ask("b"), StartTemplate)
    assert len(host.loaded(order, weights=300)) == 1


def test_weights_that_come_out_larger_than_their_checkpoint_are_made_up_for_by_who_is_idle() -> None:
    host = Models(2000)
    host.model("a", max_pods=1)
    host.model("b", checkpoint=100, max_pods=1)
    first = host.serve("a", weights=500)
    order = only(host.ask("b"), StartTemplate)
    told = PodMemory(100 * MIB, 40 * MIB)
    actions = host(TemplateReady(order.template_id, 1, weights=Weights(800 * MIB), memory=told))
    assert drained(actions) == [first.pod_id]
    host(PodDrained(first.pod_id))
    assert len(of_type(host(PodLost(first.pod_id, "", 0)), StartPod)) == 1 and host.used_mib <= 2000


def test_who_is_idle_gives_its_memory_while_weights_are_fetched() -> None:
    host = Models(2000)
    host.model("a", max_pods=1)
    host.model("b", max_pods=1)
    first = host.serve("a", weights=500)
    order = only(host.ask("b"), StartTemplate)
    assert only(host(WeightsFound(order.template_id, 800 * MIB)), SleepPod).pod_id == first.pod_id
    assert host.core.memory_need("b").weights_mib == 800 and host.used_mib <= 2000


def test_pods_that_load_for_themselves_share_the_weights_that_they_map() -> None:
    """The first is told of an eighth of the host, and says what it needs; then its claim is what it took."""
    host = Models(8000, devices=tuple(Device("npu", str(number), "910c", "cpu") for number in range(4)))
    host.model("a", max_pods=2, resources=Resources(accelerators=("npu",)))
    start = only(host.ask("a"), StartPod)
    assert host.used_mib == 8000 // SHARES and start.kv_bytes == 0
    bound = only(host(PodConnected(start.pod_id, 1)), BindPod)
    assert bound.kv_bytes == (8000 // SHARES - PROCESS_MIB) * MIB
    memory = PodMemory(300 * MIB, 40 * MIB)
    host(ExecutorReady(start.pod_id, "a", 32, weights=Weights(500 * MIB), memory=memory))
    assert host.used_mib == PROCESS_MIB + 300 + 500
    only(host(DemandChanged("a", 40, 0, 0.0)), StartPod)
    assert host.used_mib == 2 * (PROCESS_MIB + 300) + 500


def test_models_that_are_not_forked_tell_what_each_pod_takes() -> None:
    host = Models(3000)
    host.model("a", max_pods=8)
    order = only(host.ask("a", 4), StartTemplate)
    refused = TemplateRefused(order.template_id, "it embeds", PodMemory(private_bytes=1400 * MIB))
    starts = of_type(host(refused), StartPod)
    assert len(starts) == 2 and host.used_mib == 2800
    assert only(host(PodConnected(starts[0].pod_id, 1)), BindPod).kv_bytes == 0


EVENTS = st.lists(
    st.tuples(st.sampled_from(["ask", "calm", "load", "up", "lose", "lose template", "wait"]), st.integers(0, 5)),
    max_size=60,
)


@settings(max_examples=60)
@given(st.integers(1550, 6000), EVENTS)
def test_claims_are_never_more_than_there_is_whatever_happens(usable_mib: int, steps: list[tuple[str, int]]) -> None:
    host = Models(usable_mib)
    orders: dict[str, StartTemplate] = {}
    pods: dict[str, StartPod] = {}
    names, needs = ("a", "b", "c"), {"a": (100, 400, 40), "b": (700, 900, 300), "c": (10, 20, 20)}
    for name in names:
        host.model(name, checkpoint=needs[name][0], max_pods=4, scaledown_window_s=5.0)

    def note(actions: list[Any]) -> None:
        for action in actions:
            if isinstance(action, StartTemplate):
                orders[action.template_id] = action
            elif isinstance(action, StopTemplate):
                orders.pop(action.template_id, None)
            elif isinstance(action, StartPod):
                pods[action.pod_id] = action
                least_mib = needs[host.core.pods_view()[-1].function_id][2]
                assert action.kv_bytes >= least_mib * MIB
        assert host.used_mib <= usable_mib

    def chosen(number: int, kinds: dict[str, Any]) -> Any:
        return list(kinds.values())[number % len(kinds)] if kinds else None

    def lose(pod_id: str) -> None:
        del pods[pod_id]
        note(host(PodLost(pod_id, "", 1)))

    for step, number in steps:
        if step == "ask":
            note(host.ask(names[number % 3], number * 10 + 1))
        elif step == "calm":
            note(host(DemandChanged(names[number % 3], 0, 0, 0.0)))
        elif step == "load" and (order := chosen(number, orders)):
            weights, kv, least = needs[order.function_id]
            told = PodMemory(kv * MIB, least * MIB)
            note(host(TemplateReady(order.template_id, 1, weights=Weights(weights * MIB), memory=told)))
        elif step == "up" and (pod := chosen(number, pods)):
            note(host(PodConnected(pod.pod_id, 1)))
        elif step == "lose" and (pod := chosen(number, pods)):
            lose(pod.pod_id)
        elif step == "lose template" and (order := chosen(number, orders)):
            del orders[order.template_id]
            note(host(TemplateLost(order.template_id, "killed by SIGKILL")))
        elif step == "wait":
            note(host.advance(number + 0.1))
    for name in names:
        note(host(DemandChanged(name, 0, 0, 0.0)))
    for _ in range(20):
        for pod_id in list(pods):
            lose(pod_id)
        note(host.advance(100.0))
    assert host.used_mib == 0, "what is gone claims nothing"
