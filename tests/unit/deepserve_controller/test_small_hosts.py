"""Models that do not fit into a host together: every request ends, and nothing stays claimed."""

from __future__ import annotations

import pytest

from deepserve.protocol.messages import PodMemory, Weights
from deepserve_controller.core.actions import Action, StartPod, StartTemplate, StopTemplate
from deepserve_controller.core.events import DemandChanged, PodBusy, PodDrained, PodLost, TemplateFailed, TemplateReady
from deepserve_controller.core.host_memory import TURN_S
from tests.unit.deepserve_controller.harness import of_type, only
from tests.unit.deepserve_controller.small_host import SmallHost
from tests.unit.deepserve_controller.test_memory_claims import MIB, Models

SEEDS_EACH = 20


@pytest.mark.parametrize("first_seed", range(0, 8 * SEEDS_EACH, SEEDS_EACH))
def test_whatever_happens_every_request_ends_and_no_claim_is_left(first_seed: int) -> None:
    for seed in range(first_seed, first_seed + SEEDS_EACH):
        host = SmallHost(seed)
        try:
            for _ in range(10 + 10 * (seed % 12)):
                host.step()
            host.settle()
        except Exception as error:
            error.add_note(f"seed {seed}")
            raise


def test_who_waits_for_memory_hears_that_another_model_could_not_be_loaded() -> None:
    """No pod ends, and nobody asks again: that event is the last for a long time."""
    host = Models(1000)
    for name in ("a", "b"):
        host.model(name, checkpoint=300, max_pods=1)
    order = only(host.ask("a"), StartTemplate)
    assert not of_type(host.ask("b"), StartTemplate), "it waits for room"
    actions = host(TemplateFailed(order.template_id, "ImportError"))
    assert only(actions, StartTemplate).function_id == "b"


def test_what_can_never_fit_says_so_where_nobody_waits_for_it() -> None:
    """It is to have a pod always: what was loaded for that goes, and nobody waits behind it."""
    host = Models(1000)
    order = only(host.model("a", min_pods=1), StartTemplate)
    told = PodMemory(900 * MIB, 700 * MIB)
    actions = host(TemplateReady(order.template_id, 1, weights=Weights(100 * MIB), memory=told))
    assert only(actions, StopTemplate).template_id == order.template_id
    view = host.core.function_view("a")
    assert view is not None and "a pod of app/a needs 1312 MiB" in view.broken_because
    assert host.used_mib == 0


def test_a_pod_that_is_ready_for_nobody_any_more_gives_its_memory_to_who_waits() -> None:
    """It was never busy, so it will not fall idle either."""
    host = Models(1300)
    for name in ("a", "b"):
        host.model(name, checkpoint=300, max_pods=1)
    [start] = host.loaded(only(host.ask("a"), StartTemplate), weights=300)
    assert not of_type(host.ask("b"), StartTemplate), "it waits for room"
    host.ask("a", 0)
    host.up(start, "a")
    host.advance(0.001)
    assert host.states()[start.pod_id] in ("draining", "stopped")


def test_who_gave_its_pod_to_a_model_that_waits_does_not_take_the_memory_back() -> None:
    """Each would start anew when it is its turn, and be ended for the other before it has served anybody."""
    host = Models(1250)
    for name in ("a", "b"):
        host.model(name, checkpoint=300, max_pods=1)
    start = host.serve("a", weights=300)
    assert not of_type(host.ask("b"), StartTemplate)
    assert not of_type(host.ask("a"), StartPod), "there is too little for one more pod"
    host(PodDrained(start.pod_id))
    actions = host(PodLost(start.pod_id, "", 0))
    assert only(actions, StartTemplate).function_id == "b" and not of_type(actions, StartPod)


def test_who_has_got_a_pod_waits_for_more_at_the_end_of_the_line() -> None:
    """Else it would be the first to start again whenever its pod is ended for others."""
    host = Models(1250)
    for name in ("a", "b"):
        host.model(name, checkpoint=300, max_pods=3)
    [start] = host.loaded(only(host.ask("a", 50), StartTemplate), weights=300, least=300)
    assert not of_type(host.ask("b"), StartTemplate), "both wait"

    def lose(start: StartPod) -> list[Action]:
        host.up(start, "a", least=300)
        host(PodBusy(start.pod_id))
        return host(PodLost(start.pod_id, "killed by SIGKILL", -9))

    actions = lose(only(lose(start), StartPod))
    assert only(actions, StartTemplate).function_id == "b" and not of_type(actions, StartPod)


def test_idle_pods_stay_where_the_weights_of_one_model_are_enough() -> None:
    host = Models(8000)
    for name, checkpoint in (("a", 5000), ("b", 800), ("c", 4000)):
        host.model(name, checkpoint=checkpoint, max_pods=1)
    first, second = host.serve("a", weights=5000), host.serve("b", weights=800)
    host.ask("c")
    assert host.states() == {first.pod_id: "draining", second.pod_id: "bound"}
    host.ask("c", 2)
    assert host.states()[second.pod_id] == "bound", "what the first one leaves is on its way"
    host(PodDrained(first.pod_id))
    assert only(host(PodLost(first.pod_id, "", 0)), StartTemplate).function_id == "c"


@pytest.mark.parametrize("keeps", [False, True])
def test_a_model_that_is_always_busy_lets_who_waits_have_a_turn(keeps: bool) -> None:
    """Unless it is to keep a pod always."""
    host = Models(1250)
    host.model("b", checkpoint=300, max_pods=1)
    ordered = host.model("a", checkpoint=300, max_pods=1, min_pods=int(keeps))
    [start] = host.loaded(only(ordered if keeps else host.ask("a"), StartTemplate), weights=300)
    host.up(start, "a")
    host(PodBusy(start.pod_id))
    host(DemandChanged("a", 3, 32, 0.0))
    host.ask("b")
    host.advance(TURN_S - 1.0)
    assert host.states() == {start.pod_id: "bound"}
    host.advance(2.0)
    if keeps:
        assert host.states() == {start.pod_id: "bound"}
        return
    assert host.states() == {start.pod_id: "draining"}, "what runs there may end"
    host(PodDrained(start.pod_id))
    assert only(host(PodLost(start.pod_id, "", 0)), StartTemplate).function_id == "b"
