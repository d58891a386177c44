"""Models that do not fit into a host together: every request ends, and nothing stays claimed."""

from __future__ import annotations

import pytest

from deepserve.protocol.messages import PodMemory, Weights
from deepserve_controller.core.actions import StartTemplate, StopTemplate
from deepserve_controller.core.events import TemplateFailed, TemplateReady
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
