"""Models are loaded ahead of the demand that is predicted for them, as far as memory goes."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import msgspec
from hypothesis import given
from hypothesis import strategies as st

from deepserve.protocol.messages import Weights
from deepserve.protocol.specs import Resources
from deepserve_controller.core.actions import Action, StartPod, StartTemplate, StopTemplate
from deepserve_controller.core.demand_forecast import LEAST_GAP_S, DemandForecast
from deepserve_controller.core.device import Device
from deepserve_controller.core.events import (
    DemandChanged,
    DemandRemembered,
    ExecutorReady,
    FunctionDefined,
    FunctionRemoved,
    PodBusy,
    PodConnected,
    PodIdle,
    PodLost,
    TemplateFailed,
    TemplateLost,
    TemplateReady,
)
from deepserve_controller.core.host_devices import HostDevices
from deepserve_controller.core.preload_views import KnownModel, ModelForecast, PreloadPlan
from deepserve_controller.policies.pod_source import fork_bursts
from deepserve_controller.policies.preload import ForecastPreload
from tests.unit.deepserve_controller.harness import Cluster, of_type, only, spec

GAPS = st.lists(st.integers(int(LEAST_GAP_S), 10000), min_size=1, max_size=15)
AHEAD_S = 30.0


def forecast_of(gaps_s: Sequence[float]) -> tuple[DemandForecast, float]:
    forecast, now_s = DemandForecast(), 1000.0
    forecast.note_use("m", now_s)
    for gap_s in gaps_s:
        now_s += gap_s
        forecast.note_use("m", now_s)
    return forecast, now_s


@given(GAPS, st.integers(0, 20000))
def test_a_chance_rises_only_when_it_is_looked_at_next(gaps_s: list[int], idle_s: int) -> None:
    forecast, used_s = forecast_of(gaps_s)
    now_s = used_s + idle_s
    chance, next_s = forecast.chance("m", now_s, AHEAD_S), forecast.next_look_s("m", now_s, AHEAD_S)
    assert 0.0 <= chance < 1.0
    assert chance == 0.0 or any(idle_s < gap_s <= idle_s + AHEAD_S for gap_s in gaps_s)
    looks_s = [now_s] if next_s is None else [now_s, next_s]
    assert next_s is None or (next_s > now_s and forecast.chance("m", next_s, AHEAD_S) > 0.0)
    for at_s in range(int(now_s), int(used_s) + 10001, 500):  # without a look, nothing begins
        if forecast.chance("m", at_s, AHEAD_S) > 0.0:
            assert chance > 0.0 or any(look_s <= at_s for look_s in looks_s[1:])


def test_regular_use_is_predicted_and_irregular_use_is_not() -> None:
    forecast, used_s = forecast_of([100.0] * 5)
    assert forecast.chance("m", used_s + 10.0, AHEAD_S) == 0.0
    assert forecast.chance("m", used_s + 80.0, AHEAD_S) == 5 / 6
    assert forecast.chance("m", used_s + 101.0, AHEAD_S) == 0.0, "it was never left alone for so long"
    assert forecast.chance("m", used_s, AHEAD_S) == forecast.chance("nobody", 0.0, AHEAD_S) == 0.0
    forecast, used_s = forecast_of([100.0])
    assert forecast.chance("m", used_s + 80.0, AHEAD_S) == 0.5, "one gap says little"
    forecast, used_s = forecast_of([0.5] * 9)
    assert forecast.next_look_s("m", used_s, AHEAD_S) is None, "pauses within one use"


FORECASTS = st.builds(
    ModelForecast,
    function_id=st.sampled_from("abcdefgh"),
    chance=st.floats(0.0, 1.0),
    needed_mib=st.integers(1, 1000),
    load_ms=st.floats(0.0, 1e5),
    uses=st.floats(0.0, 100.0),
    is_loaded=st.booleans(),
    is_used=st.booleans(),
)


@given(st.lists(FORECASTS, max_size=8, unique_by=lambda model: model.function_id), st.floats(-500.0, 3000.0))
def test_what_is_loaded_fits_and_only_what_nobody_uses_gives_way(models: list[ModelForecast], free_mib: float) -> None:
    by_id = {model.function_id: model for model in models}
    plan = ForecastPreload().choose(models, free_mib)
    freed = sum(by_id[name].needed_mib for name in plan.give_up)
    taken = sum(by_id[name].needed_mib for name in plan.load)
    assert not plan.load or taken <= free_mib + freed
    assert len(set(plan.load + plan.give_up)) == len(plan.load + plan.give_up)
    assert all(by_id[name].chance > 0.5 and not by_id[name].is_loaded for name in plan.load)
    assert all(by_id[name].is_loaded and not by_id[name].is_used for name in plan.give_up)
    assert plan.load or not plan.give_up


def test_the_model_that_saves_the_most_per_memory_comes_first() -> None:
    likely = ModelForecast("likely", 0.9, 400, 2000.0)
    large = ModelForecast("large", 0.9, 4000, 2000.0)
    popular = ModelForecast("popular", 0.0, 400, 2000.0, uses=5.0, is_loaded=True)
    forgotten = ModelForecast("forgotten", 0.0, 400, 2000.0, uses=0.1, is_loaded=True)
    choose = ForecastPreload().choose
    assert choose([large, likely], 4200) == PreloadPlan(("likely",))
    assert choose([large, likely], math.inf) == PreloadPlan(("likely", "large"))
    assert choose([likely, popular, forgotten], 0) == PreloadPlan(("likely",), ("forgotten",))
    assert choose([likely, popular], 0) == PreloadPlan()


class Used:
    """A model that is asked now and then; its executors and its template go when their window is over."""

    def __init__(self, cluster: Cluster, name: str = "fn", held_mib: int = 400, **resources: Any) -> None:
        self.cluster = cluster
        self.name = name
        self.held_mib = held_mib
        self._is_new = True
        self.spec = spec(
            name, kind="model", environment="flowserve", scaledown_window_s=5.0, resources=Resources(**resources)
        )
        cluster(FunctionDefined(name, self.spec))

    def ask(self) -> list[Action]:
        """One request; what it took to serve it."""
        cluster, seen = self.cluster, self.cluster(DemandChanged(self.name, 1, 0, 0.0))
        for template in of_type(seen, StartTemplate):
            seen += cluster(TemplateReady(template.template_id, 7, 3000.0, weights=Weights(self.held_mib << 20)))
        pod = only(seen, StartPod)
        self.serve(pod)
        cluster(PodIdle(pod.pod_id))
        cluster(DemandChanged(self.name, 0, 0, 0.0))
        cluster(PodLost(pod.pod_id, "its time is over", 0))
        return seen

    def serve(self, pod: StartPod) -> None:
        """It starts and has a request that does not end."""
        self.cluster(PodConnected(pod.pod_id, 8))
        load_ms, weights = (0.0, Weights()) if pod.template_id else (3000.0, Weights(self.held_mib << 20))
        self.cluster(ExecutorReady(pod.pod_id, self.name, 32, load_ms, weights=weights))
        self.cluster(PodBusy(pod.pod_id))
        self.cluster(DemandChanged(self.name, 0, 1, 0.0))

    def bring(self) -> StartTemplate:
        """Asked regularly, until it is loaded ahead."""
        for _ in range(3):
            self.ask()
            actions = self.cluster.advance(100.0)
        [order] = self.ahead(actions)
        self.cluster(TemplateReady(order.template_id, 7, 3000.0, weights=Weights(self.held_mib << 20)))
        return order

    def ahead(self, actions: list[Action]) -> list[StartTemplate]:
        return [each for each in of_type(actions, StartTemplate) if each.function_id == self.name]


def test_a_model_that_is_asked_regularly_is_loaded_before_it_is_asked() -> None:
    cluster = Cluster(choose_source=fork_bursts)
    model = Used(cluster)
    for pause_s in (100.0, 100.0, 60.0):
        assert len(of_type(model.ask(), StartTemplate)) == 1
        ended = cluster.advance(pause_s)
        assert len(of_type(ended, StopTemplate)) == 1 and model.ahead(ended) == []
    [order] = model.ahead(cluster.advance(11.0))
    assert order.is_ahead and not order.is_awaited and order.reason == "likely (67%) to be asked within 30 s"
    cluster(TemplateReady(order.template_id, 7, 3000.0, weights=Weights(model.held_mib << 20)))
    assert of_type(cluster.advance(25.0), StopTemplate) == [], "its window is over, and it is still likely"
    assert of_type(model.ask(), StartTemplate) == [], "forked at once"


def test_a_model_that_is_not_asked_after_all_goes_and_is_not_loaded_again() -> None:
    cluster = Cluster(choose_source=fork_bursts)
    model = Used(cluster)
    for _ in range(3):
        model.ask()
        actions = cluster.advance(100.0)
    [order] = model.ahead(actions)
    actions = cluster(TemplateReady(order.template_id, 7, 3000.0, weights=Weights(model.held_mib << 20)))
    actions += cluster.advance(1000.0)
    assert [each.template_id for each in of_type(actions, StopTemplate)] == [order.template_id]
    assert model.ahead(actions) == []


def test_one_that_dies_is_not_loaded_ahead_again_and_again() -> None:
    cluster = Cluster(choose_source=fork_bursts)
    model = Used(cluster)
    for _ in range(3):
        model.ask()
        actions = cluster.advance(100.0)
    [order] = model.ahead(actions)
    assert model.ahead(cluster(TemplateLost(order.template_id, "killed by SIGKILL")) + cluster.advance(500.0)) == []
    assert len(of_type(model.ask(), StartTemplate)) == 1, "who asks is served"


def test_a_removed_model_is_forgotten() -> None:
    cluster = Cluster(choose_source=fork_bursts)
    model = Used(cluster)
    for _ in range(2):
        model.ask()
        cluster.advance(100.0)
    model.ask()
    cluster(FunctionRemoved("fn"))
    assert of_type(cluster.advance(500.0), StartTemplate) == []


def test_a_later_controller_goes_on_with_what_is_known() -> None:
    """The next one starts 60 s after the last use: it loads the model ahead when the first one would have."""
    before = Cluster(choose_source=fork_bursts)
    model = Used(before)
    for pause_s in (100.0, 100.0, 20.0):
        model.ask()
        before.advance(pause_s)
    [known] = before.core.known_models(before.now_s)
    assert (known.function_id, known.idle_s, known.held_mib, known.load_ms) == ("fn", 20.0, model.held_mib, 3000.0)
    assert known.gaps_s == (100.0, 100.0) and 2.5 < known.uses < 3.0
    cluster = Cluster(choose_source=fork_bursts)
    cluster.now_s = 5.0
    model = Used(cluster)
    news = DemandRemembered((msgspec.structs.replace(known, idle_s=60.0), KnownModel("gone", 0.0, (30.0, 30.0))))
    assert model.ahead(cluster(news)) == []
    assert {each.function_id: each for each in cluster.core.known_models(5.0)} == {
        m.function_id: m for m in news.models
    }
    [order] = model.ahead(cluster.advance(11.0))
    assert order.reason == "likely (67%) to be asked within 30 s"
    cluster(TemplateReady(order.template_id, 7, 3000.0, weights=Weights(model.held_mib << 20)))
    cluster.advance(9.0)
    assert of_type(model.ask(), StartTemplate) == [], "forked at once"
    [known, _] = cluster.core.known_models(cluster.now_s)
    assert known.gaps_s == (100.0, 100.0, 80.0) and known.idle_s == 0.0


def test_a_model_that_works_is_in_use() -> None:
    cluster = Cluster(choose_source=fork_bursts)
    model = Used(cluster)
    cluster(DemandChanged(model.name, 1, 0, 0.0))
    [known] = cluster.core.known_models(cluster.now_s)
    assert (known.held_mib, known.load_ms, known.gaps_s) == (0, 0.0, ())
    [template] = [each.template_id for each in cluster.core.templates.views()]
    cluster.advance(20.0)
    cluster(DemandChanged(model.name, 2, 0, 0.0))
    pod = of_type(cluster(TemplateReady(template, 7, 3000.0, weights=Weights(400 << 20))), StartPod)[0]
    cluster(PodConnected(pod.pod_id, 8))
    cluster(ExecutorReady(pod.pod_id, model.name, 32))
    cluster.advance(10.0)
    cluster(PodBusy(pod.pod_id))
    cluster(DemandChanged(model.name, 0, 1, 0.0))
    cluster.advance(500.0)
    [known] = cluster.core.known_models(cluster.now_s)
    assert known.idle_s == 0.0 and known.held_mib == 400
    cluster(PodIdle(pod.pod_id))
    assert cluster.core.known_models(cluster.now_s) == [known]
    cluster.advance(30.0)
    cluster(PodBusy(pod.pod_id))
    [known] = cluster.core.known_models(cluster.now_s)
    assert known.gaps_s == (30.0,), "the only pause: it was waited for at first, and then worked for long"


def test_memory_bounds_what_is_loaded_ahead() -> None:
    """256 MiB for each template and each pod of the environment, and one pod more that stays free."""
    for taken_mib, is_loaded in ((600, True), (601, False)):
        cluster = Cluster(choose_source=fork_bursts, usable_mib=400 + 2 * 256 + 600)
        model = Used(cluster)
        for _ in range(2):
            model.ask()
            cluster.advance(100.0)
        model.ask()
        cluster.advance(60.0)
        other = spec("other", resources=Resources(memory_mib=taken_mib), min_pods=1)
        assert len(of_type(cluster(FunctionDefined("other", other)), StartPod)) == 1
        assert bool(model.ahead(cluster.advance(11.0))) == is_loaded


# --- models whose pods have devices with memory of their own ------------------------------------------------


NPUS = tuple(Device("npu", str(number), "910c", "cpu") for number in range(8))


def on_npus(usable_mib: int = 0, **resources: Any) -> Used:
    cluster = Cluster(choose_source=fork_bursts, usable_mib=usable_mib, devices=NPUS)
    return Used(cluster, accelerators=("npu:910c:2",), **resources)


def test_weights_are_brought_into_host_memory_for_pods_with_devices_of_their_own() -> None:
    model = on_npus(memory_mib=9000)
    cluster = model.cluster
    for pause_s in (100.0, 100.0, 60.0):
        assert of_type(model.ask(), StartTemplate) == [], "each pod loads for itself"
        assert model.ahead(cluster.advance(pause_s)) == []
    [order] = model.ahead(cluster.advance(11.0))
    assert order.is_ahead and order.reason == "likely (67%) to be asked within 30 s"
    assert order.spec.resources == Resources(accelerators=("cpu",)), "it holds no device and no pod's memory"
    assert all(pod_id == "" for _, pod_id in cluster.core.devices_view())
    cluster(TemplateReady(order.template_id, 7, 3000.0, weights=Weights(model.held_mib << 20)))
    pod = only(cluster(DemandChanged("fn", 1, 0, 0.0)), StartPod)
    assert pod.template_id == ""
    model.serve(pod)
    assert [device.id for device, pod_id in cluster.core.devices_view() if pod_id == pod.pod_id] == ["0", "1"]
    view = cluster.core.function_view("fn")
    assert view is not None and view.pod_source == "loaded in each pod, which has devices of its own, from host memory"
    cluster(PodIdle(pod.pod_id))
    cluster(DemandChanged("fn", 0, 0, 0.0))
    cluster(PodLost(pod.pod_id, "its time is over", 0))
    assert [each.template_id for each in of_type(cluster.advance(30.0), StopTemplate)] == [order.template_id]


def test_what_cannot_be_brought_ahead_does_not_keep_who_asks_from_being_served() -> None:
    for lost in (
        lambda order: TemplateFailed(order.template_id, "no memory"),
        lambda order: TemplateLost(order.template_id, "killed by SIGKILL"),
    ):
        model = on_npus()
        for _ in range(3):
            model.ask()
            actions = model.cluster.advance(100.0)
        [order] = model.ahead(actions)
        assert model.ahead(model.cluster(lost(order)) + model.cluster.advance(500.0)) == []
        assert len(of_type(model.ask(), StartPod)) == 1
        assert model.ahead(model.cluster.advance(500.0)) == [], "it would fail again"


def test_memory_of_a_host_copy_goes_to_pods_also_to_its_own() -> None:
    """A pod takes 1000 MiB, the copy 400 and 256 for its process; 256 stay free for who asks when it is loaded."""
    model = on_npus(usable_mib=1300, memory_mib=1000)
    order = model.bring()
    seen = model.cluster(DemandChanged("fn", 1, 0, 0.0))
    assert only(seen, StopTemplate).template_id == order.template_id
    model.serve(only(seen, StartPod))
    model = on_npus(usable_mib=2400, memory_mib=1000)
    order = model.bring()
    model.serve(only(model.cluster(DemandChanged("fn", 1, 0, 0.0)), StartPod))
    other = spec("other", resources=Resources(memory_mib=1000), min_pods=1)
    seen = model.cluster(FunctionDefined("other", other))
    assert only(seen, StopTemplate).reason.startswith("gives its memory to"), "its model has its weights on its devices"
    assert len(of_type(seen, StartPod)) == 1


def test_a_host_copy_is_bounded_by_the_memory_of_the_host() -> None:
    """400 MiB of weights, 256 for the process and 256 that stay free."""
    for usable_mib, is_loaded in ((912, True), (911, False)):
        model = on_npus(usable_mib=usable_mib)
        for _ in range(3):
            model.ask()
            actions = model.cluster.advance(100.0)
        assert bool(model.ahead(actions)) == is_loaded


def test_what_a_process_without_devices_loads() -> None:
    real = HostDevices({}, (Device("npu", "0", "910c"),), engine_kinds=("npu", "cpu"))
    wanted = spec("m", kind="model", resources=Resources(accelerators=("gpu", "npu:910c"), memory_mib=5))
    assert real.without_devices(wanted).resources == Resources(accelerators=("npu:910c",))
