"""What a start is likely to take, by the cluster manager's own decisions: queues, observations, losses, places."""

from __future__ import annotations

from typing import Any

import pytest

from deepserve.protocol.messages import Weights
from deepserve.protocol.specs import ModelSpec, Resources
from deepserve_controller.core.actions import BindPod, StartPod, StartTemplate
from deepserve_controller.core.device import Device
from deepserve_controller.core.events import (
    DemandChanged,
    Event,
    ExecutorFailed,
    ExecutorReady,
    FunctionDefined,
    FunctionRemoved,
    PodConnected,
    PodLost,
    PodStartFailed,
    StartupsRemembered,
    TemplateFailed,
    TemplateLost,
    TemplateReady,
    TemplateRefused,
    WeightsRead,
)
from deepserve_controller.core.startup_book import (
    BUS_BYTES_PER_S,
    DISK_BYTES_PER_S,
    NUM_ENGINES,
    NUM_SIZES,
    UNKNOWN_ENGINE_S,
)
from deepserve_controller.core.startup_views import NOTHING_KNOWN, KnownSize, KnownStartups, Startup
from deepserve_controller.core.status_views import PodView
from deepserve_controller.policies.pod_source import fork_bursts
from tests.unit.deepserve_controller.harness import Cluster, of_type, only, spec

GB = 10**9
READ_S = GB / DISK_BYTES_PER_S
BUS_S = GB / BUS_BYTES_PER_S
FIRST_S = 2 * UNKNOWN_ENGINE_S
"""Of a template and a pod."""


class Models(Cluster):
    def model(self, name: str, size_bytes: int = GB, *accelerators: str, **options: Any) -> None:
        model = ModelSpec(name, f"/{options.pop('source', name)}")
        resources = Resources(accelerators=accelerators or ("cpu",))
        made = spec(name, kind="model", environment="flowserve", model=model, resources=resources, **options)
        self(FunctionDefined(name, made, size_bytes))

    def ask(self, name: str) -> list[Any]:
        return self(DemandChanged(name, 1, 0, None))

    def startup(self, name: str) -> Startup:
        found = self.core.startup_view(name, self.now_s)
        assert found is not None
        return found

    def start_s(self, name: str) -> float:
        return self.startup(name).seconds


def forked() -> Models:
    """On one host without devices: each model has a template, from which its pods are forked."""
    return Models(choose_source=fork_bursts)


def seen(engine_s: float = 0.25, size_bytes: int = GB, **options: Any) -> Models:
    """`a` was loaded, by a template in half a second and a pod that took `engine_s`, and is still there."""
    models, weights = forked(), Weights(size_bytes)
    models.model("a", **options)
    template = only(models.ask("a"), StartTemplate)
    pod = only(models(TemplateReady(template.template_id, 7, 500.0, "host memory", weights)), StartPod)
    models(PodConnected(pod.pod_id, 8))
    models.now_s += engine_s
    models(ExecutorReady(pod.pod_id, "a", 4, weights=weights))
    return models


def test_before_the_first_start_there_are_the_bytes_of_its_folder() -> None:
    models = forked()
    models.model("a", 2 * GB)
    assert models.startup("a") == Startup(
        2 * READ_S + FIRST_S, "file", {"host memory": FIRST_S, "file": 2 * READ_S + FIRST_S}, 2 * GB, is_observed=False
    )
    models.model("from a hub", 0)
    assert models.core.startup_view("from a hub", 0.0) is None
    models.define("function")
    assert models.core.startup_view("function", 0.0) is None and models.core.startup_view("unknown", 0.0) is None


def test_where_the_weights_are_says_what_a_start_takes() -> None:
    models = seen(0.25, 2 * GB)
    found = models.startup("a")
    assert (found.source, found.weights_bytes) == ("fork", 2 * GB), "the executor's word for their size"
    assert found.by_source_s == pytest.approx({"fork": 0.25, "host memory": 0.75, "file": 0.75 + 2 * READ_S})
    assert found.seconds == pytest.approx(0.25) and found.is_observed
    models(TemplateLost("template-1", "killed"))
    found = models.startup("a")
    assert (found.source, found.seconds) == ("host memory", pytest.approx(0.75))


def test_the_second_model_on_a_disk_waits_for_the_first() -> None:
    models = forked()
    models.model("a", 3 * GB)
    models.model("b", 2 * GB)
    alone_s = models.start_s("b")
    only(models.ask("a"), StartTemplate)
    assert models.start_s("b") == pytest.approx(alone_s + 3 * READ_S)
    assert models.start_s("a") == pytest.approx(3 * READ_S + FIRST_S), "its own bytes are on their way"
    models.now_s += 2.0
    assert models.start_s("b") == pytest.approx(alone_s + 3 * READ_S - 2.0)


def test_models_of_one_source_share_their_weights() -> None:
    models = seen(source="same")
    models.model("b", source="same")
    assert models.startup("b").source == "host memory"
    models.model("c", source="other")
    assert models.startup("c").source == "file"


def test_reading_by_a_template_corrects_the_disk() -> None:
    models = forked()
    models.model("a", 4 * GB)
    models.model("b", 4 * GB)
    before_s = models.start_s("b")
    template = only(models.ask("a"), StartTemplate)
    models.now_s += 9.0
    models(TemplateReady(template.template_id, 7, 8200.0, "file", Weights(4 * GB, read_ms=8000.0)))
    rate = DISK_BYTES_PER_S + 0.3 * (GB / 2 - DISK_BYTES_PER_S)
    assert models.start_s("b") == pytest.approx(before_s - 4 * READ_S + 4 * GB / rate)
    assert models.startup("a").source == "fork"


def test_reading_by_an_engine_that_serves_already_corrects_the_disk_when_it_is_told() -> None:
    """Its template has only mapped the file; others wait for the disk until it is told that all is there."""
    models = forked()
    models.model("a", 4 * GB)
    models.model("b", 4 * GB)
    before_s = models.start_s("b")
    template = only(models.ask("a"), StartTemplate)
    models.now_s += 0.5
    pod = only(models(TemplateReady(template.template_id, 7, 100.0, "file", Weights(4 * GB))), StartPod)
    models(PodConnected(pod.pod_id, 8))
    models(ExecutorReady(pod.pod_id, "a", 4, weights=Weights(4 * GB, is_arriving=True)))
    assert models.start_s("b") == pytest.approx(before_s + 4 * READ_S)
    models.now_s += 60.0  # nobody asks it for long
    models(WeightsRead(pod.pod_id, 2000.0))
    rate = DISK_BYTES_PER_S + 0.3 * (2 * GB - DISK_BYTES_PER_S)
    assert models.start_s("b") == pytest.approx(before_s - 4 * READ_S + 4 * GB / rate)
    assert models.startup("a").source == "fork"


def test_weights_that_memory_has_given_up_are_booked_when_a_pod_says_so() -> None:
    models = seen()
    models.model("b")
    before_s = models.start_s("b")
    pod_id = of_type(models(DemandChanged("a", 8, 4, None)), StartPod)[0].pod_id
    models(PodConnected(pod_id, 9))
    models(ExecutorReady(pod_id, "a", 4, weights=Weights(GB, is_arriving=True)))
    assert models.start_s("b") == pytest.approx(before_s + READ_S)
    assert models.startup("a").source == "file"
    models(PodLost(pod_id, "", -9))
    assert models.start_s("b") == pytest.approx(before_s)


@pytest.mark.parametrize(
    "end",
    [
        TemplateLost("template-1", "killed"),
        TemplateRefused("template-1", "a thread is alive"),
        TemplateFailed("template-1", "no such file"),
        FunctionRemoved("a"),
        DemandChanged("a", 0, 0, None),
    ],
)
def test_a_template_that_does_not_come_leaves_the_disk(end: Event) -> None:
    models = forked()
    models.model("b")
    before_s = models.start_s("b")
    models.model("a", 50 * GB, scaledown_window_s=1.0, startup_timeout_s=5.0)
    only(models.ask("a"), StartTemplate)
    assert models.start_s("b") == pytest.approx(before_s + 50 * READ_S)
    models(end)
    for pod in models.core.pods_view():  # those that load for themselves in its place
        models(PodLost(pod.pod_id, "", 1))
    models.advance(20.0)
    for pod in models.core.pods_view():
        models(PodLost(pod.pod_id, "", 1))
    assert models.start_s("b") == pytest.approx(before_s)


def test_a_later_controller_goes_on_from_what_was_learned() -> None:
    models = seen(0.25, 2 * GB)
    models.model("b", 4 * GB)
    template = only(models.ask("b"), StartTemplate)
    models.now_s += 9.0
    models(TemplateReady(template.template_id, 7, 8200.0, "file", Weights(3 * GB, read_ms=8000.0)))
    known = models.core.startups.known()
    assert set(known.bytes_per_s) == {"disk"} and known.bytes_per_s["disk"] < DISK_BYTES_PER_S
    later = forked()
    later(StartupsRemembered(known))
    assert later.core.startups.known() == known
    later.model("a", GB)  # as its folder has it
    startup = later.startup("a")
    assert (startup.source, startup.weights_bytes) == ("file", 2 * GB), "what memory holds is not known"
    assert startup.by_source_s["host memory"] == pytest.approx(models.startup("a").by_source_s["host memory"])
    assert startup.seconds == pytest.approx(0.75 + 2 * GB / known.bytes_per_s["disk"])
    later.model("c", GB)
    assert later.startup("c").by_source_s["host memory"] == pytest.approx(FIRST_S), "of others nothing is known"


def test_what_was_learned_is_told_within_bounds_and_of_what_is_there() -> None:
    assert forked().core.startups.known() == NOTHING_KNOWN
    later = devices()
    engines_s = {f"app/model-{number} ": 1.0 for number in range(NUM_ENGINES + 5)}
    sizes = tuple(KnownSize(f"/{number}", "auto", None, GB) for number in range(NUM_SIZES + 5))
    later(StartupsRemembered(KnownStartups({"bus to npu 0": GB, "bus to npu 7": GB}, engines_s, sizes)))
    known = later.core.startups.known()
    assert known.bytes_per_s == {"bus to npu 0": GB}
    assert (len(known.engine_s), len(known.sizes)) == (NUM_ENGINES, NUM_SIZES)
    assert "app/model-4 " not in known.engine_s and known.sizes[0].source == "/5", "the longest ago go first"
    later.model("model-5", GB, "npu:910c")
    pod = only(later.ask("model-5"), StartPod)
    later(PodConnected(pod.pod_id, 8))
    later.now_s += 3.0
    later(ExecutorReady(pod.pod_id, "model-5", 4, weights=Weights(2 * GB)))
    known = later.core.startups.known()
    assert list(known.engine_s)[-1].startswith("app/model-5 ") and known.sizes[-1].size_bytes == 2 * GB


TWO_PLACES = (Device("npu", "0", "910c", "cpu"), Device("npu", "1", "910b", "cpu"))


def devices(*found: Device) -> Models:
    return Models(devices=found or TWO_PLACES)


def test_a_device_has_a_bus_of_its_own() -> None:
    models = devices()
    models.model("a", GB, "npu:910c")
    assert models.start_s("a") == pytest.approx(READ_S + UNKNOWN_ENGINE_S), "the disk is the slowest"
    assert models.startup("a").by_source_s["host memory"] == pytest.approx(BUS_S + UNKNOWN_ENGINE_S)
    four = devices(*(Device("npu", f"{number}", "910c", "cpu") for number in range(4)))
    four.model("a", GB, "npu:910c:4")
    assert four.startup("a").by_source_s["host memory"] == pytest.approx(BUS_S / 4 + UNKNOWN_ENGINE_S)


@pytest.mark.parametrize("how", ["start fails", "lost", "killed while loading", "cannot load", "too slow", "removed"])
def test_a_pod_that_does_not_get_ready_leaves_the_disk(how: str) -> None:
    models = devices()
    models.model("b", GB, "npu:910b")
    before_s = models.start_s("b")
    models.model("a", 50 * GB, "npu:910c", startup_timeout_s=5.0)
    pod_id = only(models.ask("a"), StartPod).pod_id
    assert models.start_s("b") == pytest.approx(before_s + 50 * READ_S)
    if how not in ("start fails", "lost"):
        only(models(PodConnected(pod_id, 1)), BindPod)
    if how == "start fails":
        models(PodStartFailed(pod_id, "no"))
    elif how == "cannot load":
        models(ExecutorFailed(pod_id, "a", "no such kernel"))
    elif how == "too slow":
        models.advance(6.0)
    elif how == "removed":
        models(FunctionRemoved("a"))
    else:
        models(PodLost(pod_id, "", -9))
    assert models.start_s("b") == pytest.approx(before_s)


def test_of_the_places_that_a_choice_leaves_open_the_one_is_taken_where_it_is_ready_first() -> None:
    models = devices()
    models.model("a", GB, "npu", max_pods=2, target_inputs=1)
    pods = of_type(models(DemandChanged("a", 2, 0, None)), StartPod)
    for pod, took_s in zip(pods, (4.0, 2.0), strict=True):
        models(PodConnected(pod.pod_id, 1))
        models.now_s += took_s
        models(ExecutorReady(pod.pod_id, "a", 4, weights=Weights(GB)))
    where = {each.pod_id: device.model for device, each in held(models)}
    assert list(where.values()) == ["910c", "910b"]
    assert models.startup("a").by_source_s["host memory"] == pytest.approx(2.0 + BUS_S)
    models(DemandChanged("a", 0, 0, None))
    for pod in pods:
        models(PodLost(pod.pod_id, "", 0))
    only(models.ask("a"), StartPod)
    assert [device.model for device, _ in held(models)] == ["910b"]


def held(models: Models) -> list[tuple[Device, PodView]]:
    pods = {pod.pod_id: pod for pod in models.core.pods_view()}
    return [(device, pods[pod_id]) for device, pod_id in models.core.devices_view() if pod_id]
