"""Functions that no pod can be bound to, and those that are removed: what becomes of who waits for them."""

from __future__ import annotations

from deepserve.protocol.messages import Outcome
from deepserve.protocol.specs import RetrySpec
from deepserve_controller.core.actions import FinishItem, FinishRequest, SendCancel, SendTask
from deepserve_controller.core.events import (
    DemandChanged,
    ExecutorFailed,
    FunctionRemoved,
    MapInputArrived,
    Payload,
    PodLost,
    RequestArrived,
)
from tests.unit.deepserve_controller.harness import ERROR, Jobs, news, of_type, only, running


def test_a_binding_error_ends_all_that_waits_and_the_next_request_tries_anew(jobs: Jobs) -> None:
    jobs.define()
    error = Payload(data=b"ImportError")
    jobs(RequestArrived("a", "link", "fn"))
    jobs(RequestArrived("map", "link", "fn", "map"))
    jobs(MapInputArrived("map", 0, Payload()))
    actions = jobs(ExecutorFailed("pod-1", "fn", "ImportError: no", error))
    finish = only(actions, FinishRequest)
    assert (finish.request_id, finish.payload) == ("a", error)
    assert finish.outcome == Outcome("startup_failed", "ImportError: no")
    item = only(actions, FinishItem)
    assert (item.outcome.kind, item.payload) == ("startup_failed", error)
    assert [demand.queued for demand in news(actions, DemandChanged)] == [0]
    assert [demand.queued for demand in news(jobs(RequestArrived("b", "link", "fn")), DemandChanged)] == [1]


def test_a_binding_error_spares_a_function_with_a_pod_that_works(jobs: Jobs) -> None:
    running(jobs, "a", "b")
    assert not of_type(jobs(ExecutorFailed("pod-2", "fn", "once")), FinishRequest)
    assert only(jobs.finish("task-1"), SendTask).request_id == "b"


def test_demand_is_repeated_when_the_last_working_pod_goes(jobs: Jobs) -> None:
    running(jobs, "a", "b")
    jobs(ExecutorFailed("pod-2", "fn", "once"))
    [demand] = news(jobs(PodLost("pod-1", "", 1)), DemandChanged)
    assert demand.queued == 1


def test_a_model_that_cannot_be_loaded_ends_requests_that_are_still_tokenised(jobs: Jobs) -> None:
    jobs.define("fn-tok", kind="tokenizer")
    jobs.define("fn-model", kind="model", tokenizer="fn-tok")
    jobs(RequestArrived("queued", "link", "fn-model"))
    finish = only(jobs(ExecutorFailed("pod-1", "fn-model", "no such folder")), FinishRequest)
    assert finish.outcome == Outcome("startup_failed", "no such folder")
    jobs.pod("pod-2", "fn-tok")
    jobs(RequestArrived("running", "link", "fn-model"))
    assert of_type(jobs(ExecutorFailed("pod-3", "fn-model", "no such folder")), SendCancel)
    assert only(jobs.finish("task-2"), FinishRequest).outcome.kind == "startup_failed"


def test_a_removed_function_ends_what_waits_for_a_retry_and_lets_running_tasks_end(jobs: Jobs) -> None:
    running(jobs, "a", retries=RetrySpec(5))
    jobs.pod("pod-2")
    jobs(RequestArrived("b", "link", "fn"))
    jobs.finish("task-2", 1, ERROR, may_retry=True)
    assert only(jobs(FunctionRemoved("fn")), FinishRequest).request_id == "b"
    assert only(jobs.finish("task-1", 1, ERROR, may_retry=True), FinishRequest).outcome == ERROR


def test_a_removed_model_is_not_in_demand_for_requests_that_are_being_stopped(jobs: Jobs) -> None:
    jobs.define("fn-tok", kind="tokenizer")
    jobs.define("fn-model", kind="model", tokenizer="fn-tok")
    jobs(RequestArrived("a", "link", "fn-model"))
    jobs.pod("pod-1", "fn-tok")
    [demand] = news(jobs(FunctionRemoved("fn-model")), DemandChanged)
    assert demand.queued == 0
    jobs.define("fn-model", kind="model", tokenizer="fn-tok")
    wanted = news(jobs(RequestArrived("b", "link", "fn-model")), DemandChanged)
    assert {demand.function_id: demand.queued for demand in wanted} == {"fn-tok": 1, "fn-model": 1}
