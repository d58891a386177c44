"""What loaded models give way where memory is short."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from deepserve.protocol.messages import Weights
from deepserve_controller.core.actions import StartPod, StopTemplate
from deepserve_controller.core.events import DemandChanged, FunctionDefined, PodLost, TemplateReady
from deepserve_controller.core.memory_views import HeldTemplate
from deepserve_controller.core.popularity import HALF_LIFE_S, Popularity
from deepserve_controller.policies.host_cache import saved_per_memory
from deepserve_controller.policies.pod_source import fork_bursts
from tests.unit.deepserve_controller.harness import Cluster, of_type, only, spec

AMOUNTS = st.floats(0.01, 1e6)


@given(st.integers(1, 10**6), AMOUNTS, AMOUNTS, st.floats(1.0, 1e3))
def test_more_use_and_longer_loads_count_for_it_and_more_memory_against(
    held_mib: int, uses: float, load_ms: float, factor: float
) -> None:
    worth = saved_per_memory(HeldTemplate(held_mib, uses, load_ms))
    assert saved_per_memory(HeldTemplate(held_mib, uses * factor, load_ms)) >= worth
    assert saved_per_memory(HeldTemplate(held_mib, uses, load_ms * factor)) >= worth
    assert saved_per_memory(HeldTemplate(int(held_mib * factor), uses, load_ms)) <= worth


@given(st.lists(st.floats(0.0, 1e4), max_size=30))
def test_popularity_halves_and_is_never_more_than_the_uses(gaps_s: list[float]) -> None:
    popularity, now_s = Popularity(), 0.0
    for gap_s in gaps_s:
        now_s += gap_s
        popularity.note("a", now_s)
    uses = popularity.of("a", now_s)
    assert uses <= len(gaps_s) and (uses >= 1.0 or not gaps_s)
    assert abs(popularity.of("a", now_s + HALF_LIFE_S) - uses / 2) < 1e-9
    assert popularity.of("b", now_s) == 0.0


def test_the_large_model_that_nobody_asks_for_goes_and_the_small_one_stays() -> None:
    cluster = Cluster(choose_source=fork_bursts, usable_mib=2900)
    for number, (name, held_mib) in enumerate((("large", 1500), ("small", 100)), start=1):
        cluster(FunctionDefined(name, spec(name, kind="model", environment="flowserve")))
        cluster(DemandChanged(name, 1, 0, 0.0))
        pod = only(cluster(TemplateReady(f"template-{number}", 7, 100.0, weights=Weights(held_mib << 20))), StartPod)
        cluster(DemandChanged(name, 0, 0, 0.0))
        cluster(PodLost(pod.pod_id, "", 0))
    cluster(FunctionDefined("next", spec("next", kind="class", environment="flowserve", max_pods=64)))
    actions = cluster(DemandChanged("next", 3, 0, 0.0))
    actions += cluster(DemandChanged("next", 4, 0, 0.0))
    stopped = of_type(actions, StopTemplate)
    assert [action.template_id for action in stopped] == ["template-1"]
    assert "gives its memory to" in stopped[0].reason
