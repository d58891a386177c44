"""Templates of functions: where pods come from, and when the process that they are forked from goes."""

from __future__ import annotations

import pytest

from deepserve.protocol.specs import Resources
from deepserve_controller.core.actions import BindPod, KillPod, StartPod, StartTemplate, StopTemplate
from deepserve_controller.core.events import (
    ControllerStarted,
    DemandChanged,
    ExecutorFailed,
    ExecutorReady,
    FunctionRemoved,
    Payload,
    PodBusy,
    PodConnected,
    PodDrained,
    PodLost,
    PodStartFailed,
    TemplateFailed,
    TemplateLost,
    TemplateReady,
    TemplateRefused,
)
from deepserve_controller.core.template_views import TemplateView
from deepserve_controller.policies.pod_source import fork_bursts
from tests.unit.deepserve_controller.harness import Cluster, news, of_type, only


@pytest.fixture
def cluster() -> Cluster:
    return Cluster(choose_source=fork_bursts)


def demand(queued: int, running: int = 0) -> DemandChanged:
    return DemandChanged("fn", queued, running, 0.0)


def source_text(cluster: Cluster) -> str:
    [view] = cluster.core.functions_view()
    return view.pod_source


def test_a_snapshot_is_built_once_and_all_pods_come_from_it(cluster: Cluster) -> None:
    cluster.define(kind="class", snap=True)
    actions = cluster(demand(8))
    template = only(actions, StartTemplate)
    assert template.template_id == "template-1" and of_type(actions, StartPod) == []
    assert cluster(demand(8)) == []  # what waits, waits for the template
    started = of_type(cluster(TemplateReady("template-1", 7)), StartPod)
    assert len(started) == 8 and {pod.template_id for pod in started} == {"template-1"}
    assert source_text(cluster) == "forked from its template"


def test_a_forked_pod_is_bound_without_an_order(cluster: Cluster) -> None:
    cluster.define(kind="class", snap=True)
    cluster(demand(1))
    pod = only(cluster(TemplateReady("template-1", 7)), StartPod)
    assert of_type(cluster(PodConnected(pod.pod_id, 8)), BindPod) == []
    assert cluster.states() == {pod.pod_id: "binding"}
    cluster(ExecutorReady(pod.pod_id, "fn", 1))
    assert cluster.states() == {pod.pod_id: "bound"}


def test_a_model_is_loaded_once_and_all_pods_come_from_it(cluster: Cluster) -> None:
    cluster.define(kind="model")
    actions = cluster(demand(1))
    assert only(actions, StartTemplate).template_id == "template-1" and of_type(actions, StartPod) == []
    assert only(cluster(TemplateReady("template-1", 7)), StartPod).template_id == "template-1"
    assert [pod.template_id for pod in of_type(cluster(demand(3)), StartPod)] == ["template-1"] * 2


def test_a_template_knows_whether_tasks_wait_for_its_first_pods(cluster: Cluster) -> None:
    cluster.define(kind="model")
    assert only(cluster(demand(1)), StartTemplate).is_awaited


def test_nobody_waits_for_pods_that_are_kept_anyway(cluster: Cluster) -> None:
    template = only(cluster.define(kind="model", min_pods=1), StartTemplate)
    assert not template.is_awaited and not template.is_ahead


def test_a_tokenizer_has_its_environment_alone(cluster: Cluster) -> None:
    cluster.define(kind="tokenizer")
    assert [pod.template_id for pod in of_type(cluster(demand(8)), StartPod)] == [""] * 8


def test_what_is_refused_is_loaded_by_each_pod_and_says_why(cluster: Cluster) -> None:
    cluster.define(kind="class", snap=True)
    cluster(demand(2))
    started = of_type(cluster(TemplateRefused("template-1", "thread 'poller' is alive")), StartPod)
    assert [pod.template_id for pod in started] == ["", ""]
    assert source_text(cluster) == "not snapshotted: thread 'poller' is alive"
    assert of_type(cluster(demand(6)), StartTemplate) == []


def test_an_error_of_the_snapshot_goes_to_who_waits(cluster: Cluster) -> None:
    cluster.define(kind="class", snap=True)
    cluster(demand(2))
    payload = Payload(data=b"the exception")
    [failed] = news(cluster(TemplateFailed("template-1", "ValueError: no", payload)), ExecutorFailed)
    assert (failed.function_id, failed.text, failed.payload) == ("fn", "ValueError: no", payload)
    assert only(cluster(demand(1)), StartTemplate).template_id == "template-2"  # new demand is a new try


def test_a_template_that_dies_while_it_loads_is_tried_three_times(cluster: Cluster) -> None:
    cluster.define(kind="class", snap=True)
    cluster(demand(1))
    told: list[ExecutorFailed] = []
    for number in (1, 2, 3):
        told += news(cluster(TemplateLost(f"template-{number}", "killed by SIGKILL")), ExecutorFailed)
        cluster.advance(1.0)
    assert [event.text for event in told] == ["killed by SIGKILL (3 tries)"]
    assert cluster.core.templates.views() == []


def test_a_template_that_dies_later_is_built_again_at_the_next_need(cluster: Cluster) -> None:
    cluster.define(kind="class", snap=True)
    cluster(demand(1))
    pod = only(cluster(TemplateReady("template-1", 7)), StartPod)
    cluster(PodConnected(pod.pod_id, 8))
    cluster(ExecutorReady(pod.pod_id, "fn", 1))
    assert of_type(cluster(TemplateLost("template-1", "killed by SIGKILL")), StartTemplate) == []
    assert of_type(cluster(PodLost(pod.pod_id, "", -9)), StartTemplate) != []  # a task still waits


def test_loading_has_the_functions_startup_timeout(cluster: Cluster) -> None:
    cluster.define(kind="class", snap=True, startup_timeout_s=3.0)
    cluster(demand(1))
    actions = cluster.advance(3.0)
    assert only(actions, StopTemplate).template_id == "template-1"
    assert "still loading app/f after 3 s" in only(actions, StopTemplate).reason
    [failed] = news(actions, ExecutorFailed)
    assert failed.is_slow and "not ready within its startup_timeout of 3 s" in failed.text


def test_the_first_pod_of_a_function_does_not_wait_for_a_burst(cluster: Cluster) -> None:
    cluster.define(max_pods=64)
    first = cluster(demand(64))
    assert only(first, StartPod).template_id == ""
    assert only(first, StartTemplate).template_id == "template-1"
    assert len(of_type(cluster(TemplateReady("template-1", 7)), StartPod)) == 63


def test_few_pods_load_for_themselves(cluster: Cluster) -> None:
    cluster.define(max_pods=64)
    actions = cluster(demand(3))
    assert len(of_type(actions, StartPod)) == 3 and of_type(actions, StartTemplate) == []


def test_a_function_that_loads_slowly_has_a_template_before_the_burst(cluster: Cluster) -> None:
    cluster.define(max_pods=8)
    pod = only(cluster(demand(1)), StartPod)
    cluster(PodConnected(pod.pod_id, 8))
    template = only(cluster(ExecutorReady(pod.pod_id, "fn", 1, load_ms=900.0)), StartTemplate)
    assert template.reason == "loading took 900 ms: a template for the next pods"


def test_without_a_snapshot_a_failure_of_the_template_is_no_failure_of_the_function(cluster: Cluster) -> None:
    for text, failure in (
        ("not snapshotted: ImportError", TemplateFailed("template-1", "ImportError")),
        ("not snapshotted: killed by SIGKILL", TemplateLost("template-1", "killed by SIGKILL")),
    ):
        cluster = Cluster(choose_source=fork_bursts)
        cluster.define(max_pods=8)
        cluster(demand(8))
        actions = cluster(failure)
        assert news(actions, ExecutorFailed) == []
        assert [pod.template_id for pod in of_type(actions, StartPod)] == [""] * 7
        assert source_text(cluster) == text


def test_a_template_goes_a_window_after_the_last_pod(cluster: Cluster) -> None:
    cluster.define(kind="class", snap=True, scaledown_window_s=10.0)
    cluster(demand(1))
    pod = only(cluster(TemplateReady("template-1", 7)), StartPod)
    cluster(PodConnected(pod.pod_id, 8))
    cluster(demand(0))
    cluster(ExecutorReady(pod.pod_id, "fn", 1))
    cluster.advance(10.0)
    cluster(PodDrained(pod.pod_id))
    assert of_type(cluster.advance(30.0), StopTemplate) == []  # the pod has not ended yet
    cluster(PodLost(pod.pod_id, "", 0))
    assert of_type(cluster.advance(9.0), StopTemplate) == []
    assert [action.template_id for action in of_type(cluster.advance(11.0), StopTemplate)] == ["template-1"]
    assert only(cluster(demand(1)), StartTemplate).template_id == "template-2"


def test_a_removed_functions_template_goes_with_its_last_pod(cluster: Cluster) -> None:
    cluster.define(kind="class", snap=True)
    cluster(demand(2))
    pods = of_type(cluster(TemplateReady("template-1", 7)), StartPod)
    actions = cluster(FunctionRemoved("fn"))
    assert {action.pod_id for action in of_type(actions, KillPod)} == {pod.pod_id for pod in pods}
    assert of_type(actions, StopTemplate) == []
    assert of_type(cluster(PodLost(pods[0].pod_id, "", -9)), StopTemplate) == []
    assert only(cluster(PodLost(pods[1].pod_id, "", -9)), StopTemplate).template_id == "template-1"


def test_a_template_that_loads_goes_with_its_function(cluster: Cluster) -> None:
    cluster.define(kind="class", snap=True)
    cluster(demand(1))
    assert only(cluster(FunctionRemoved("fn")), StopTemplate).template_id == "template-1"
    assert cluster(TemplateReady("template-1", 7)) == []


def test_pods_that_a_dead_template_never_forked_are_started_from_a_new_one(cluster: Cluster) -> None:
    cluster.define(kind="class", snap=True)
    cluster(demand(2))
    pods = of_type(cluster(TemplateReady("template-1", 7)), StartPod)
    cluster(TemplateLost("template-1", "killed by SIGKILL"))
    for pod in pods:
        cluster(PodStartFailed(pod.pod_id, "its template was killed"))
    assert only(cluster.advance(1.0), StartTemplate).template_id == "template-2"
    assert len(of_type(cluster(TemplateReady("template-2", 9)), StartPod)) == 2


@pytest.mark.parametrize(
    ("view", "expected"),
    [
        (TemplateView(True, "none", "", 1, 0, 0, 8, 0.0), (0, False, True)),
        (TemplateView(True, "none", "", 0, 0, 0, 8, 0.0), (0, False, False)),
        (TemplateView(True, "loading", "", 5, 0, 0, 8, 0.0), (0, False, False)),
        (TemplateView(True, "ready", "", 5, 0, 0, 8, 0.0), (5, True, False)),
        (TemplateView(True, "none", "a thread", 5, 0, 0, 8, 0.0), (5, False, False)),
        (TemplateView(False, "none", "", 3, 1, 1, 8, 5.0), (3, False, False)),
        (TemplateView(False, "none", "", 1, 4, 1, 8, 5.0), (0, False, True)),
        (TemplateView(False, "none", "", 1, 3, 1, 8, 5.0), (1, False, False)),
        (TemplateView(False, "none", "", 4, 1, 1, 8, 5.0), (0, False, True)),
        (TemplateView(False, "none", "", 4, 0, 0, 8, 0.0), (1, False, True)),
        (TemplateView(False, "loading", "", 1, 0, 0, 8, 0.0), (1, False, False)),
        (TemplateView(False, "loading", "", 1, 1, 0, 8, 0.0), (0, False, False)),
        (TemplateView(False, "ready", "", 1, 1, 1, 8, 5.0), (1, True, False)),
        (TemplateView(False, "none", "", 0, 1, 1, 8, 500.0), (0, False, True)),
        (TemplateView(False, "none", "", 0, 1, 1, 1, 500.0), (0, False, False)),
    ],
)
def test_known_answers(view: TemplateView, expected: tuple[int, bool, bool]) -> None:
    source = fork_bursts(view)
    assert (source.pods, source.is_from_template, source.is_template_wanted) == expected
    assert source.reason


def test_a_pod_of_the_warm_pool_does_not_change_places_with_a_forked_one() -> None:
    cluster = Cluster(warm_pods={"python": 1}, choose_source=fork_bursts)
    warm = only(cluster(ControllerStarted()), StartPod)
    cluster.define(kind="class", snap=True)
    cluster(demand(1))
    forked = only(cluster(TemplateReady("template-1", 7)), StartPod)
    assert cluster(PodConnected(warm.pod_id, 8)) == []
    cluster(PodConnected(forked.pod_id, 9))
    assert cluster.states() == {warm.pod_id: "warm", forked.pod_id: "binding"}


def test_a_template_takes_memory_and_an_unused_one_gives_it() -> None:
    cluster = Cluster(usable_mib=300, choose_source=fork_bursts)
    cluster.define(kind="class", snap=True, resources=Resources(memory_mib=100))
    template = only(cluster(demand(5)), StartTemplate)
    pods = of_type(cluster(TemplateReady(template.template_id, 7)), StartPod)
    assert len(pods) == 2
    cluster(demand(0))
    for pod in pods:
        cluster(PodLost(pod.pod_id, "", 0))
    cluster.define("fn-other", name="other", resources=Resources(memory_mib=250))
    actions = cluster(DemandChanged("fn-other", 1, 0, 0.0))
    assert only(actions, StopTemplate).reason == "gives its memory to app/other"
    assert only(actions, StartPod).memory_mib == 250


def test_without_memory_for_a_template_each_pod_loads() -> None:
    cluster = Cluster(usable_mib=100, choose_source=fork_bursts)
    cluster.define(kind="class", snap=True, resources=Resources(memory_mib=100))
    assert only(cluster(demand(1)), StartPod).template_id == ""
    assert source_text(cluster) == "no memory for a template beside a pod"


def test_a_template_that_does_not_fork_is_replaced_and_its_pods_go_on(cluster: Cluster) -> None:
    cluster.define(kind="class", snap=True)
    cluster(demand(1))
    first = only(cluster(TemplateReady("template-1", 7)), StartPod)
    cluster(PodConnected(first.pod_id, 8))
    cluster(ExecutorReady(first.pod_id, "fn", 1))
    cluster(PodBusy(first.pod_id))
    late = only(cluster(demand(1, running=1)), StartPod)
    actions = cluster.advance(31.0)
    assert only(actions, KillPod).pod_id == late.pod_id
    assert only(actions, StartTemplate).template_id == "template-2"
    assert of_type(actions, StopTemplate) == []
    cluster(PodLost(late.pod_id, "", -9))
    assert cluster.states() == {first.pod_id: "bound"}


def test_a_template_of_what_has_changed_on_disk_forks_no_more(cluster: Cluster) -> None:
    cluster.define(kind="model", max_pods=3)
    cluster(demand(2))
    old, stale = of_type(cluster(TemplateReady("template-1", 7)), StartPod)
    for pod in (old, stale):
        cluster(PodConnected(pod.pod_id, 8))
    cluster(ExecutorReady(old.pod_id, "fn", 32))
    cluster(ExecutorReady(stale.pod_id, "fn", 32, load_ms=50.0, is_template_stale=True))
    assert only(cluster(demand(65)), StartTemplate).template_id == "template-2"
    assert only(cluster(TemplateReady("template-2", 9)), StartPod).template_id == "template-2"
    for pod in (old, stale):
        assert of_type(cluster(PodLost(pod.pod_id, "gone", 1)), StopTemplate) == [] or pod is stale, "its pods go first"
