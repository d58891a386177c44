"""Calls as arguments: what waits for them, and what becomes of it when they end."""

from __future__ import annotations

from deepserve.protocol.messages import Outcome, Value
from deepserve_controller.core.actions import FinishItem, FinishRequest, SendTask
from deepserve_controller.core.events import (
    DemandChanged,
    FunctionRemoved,
    LinkClosed,
    MapInputArrived,
    MapInputsEnded,
    Payload,
    RequestArrived,
    RequestCancelled,
    TaskBlocked,
)
from tests.unit.deepserve_controller.harness import Jobs, news, of_type, only

BOOM = Payload(Value("exception", 4), b"boom")
ERROR = Outcome("error", "Boom")


def ask(jobs: Jobs, name: str, *depends_on: str, **more: object) -> list[object]:
    return jobs(RequestArrived(name, "link", "fn", depends_on=depends_on, **more))  # type: ignore[arg-type, return-value]


def test_a_call_waits_without_a_slot_and_runs_when_the_last_result_is_there(jobs: Jobs) -> None:
    jobs.define(max_inputs=2)
    jobs.pod(slots=2)
    ask(jobs, "a")
    ask(jobs, "b")
    assert ask(jobs, "c", "a", "b") == []
    assert jobs.states == {"a": "running", "b": "running"}
    assert not of_type(jobs.finish("task-1"), SendTask)
    actions = jobs.finish("task-2")
    assert [type(action) for action in actions if isinstance(action, FinishRequest | SendTask)] == [
        FinishRequest,  # the service takes the result when it is told of it, and sends it with the task
        SendTask,
    ]
    assert only(actions, SendTask).request_id == "c"
    assert only(jobs.finish("task-3"), FinishRequest).outcome.is_ok


def test_what_waits_is_no_demand(jobs: Jobs) -> None:
    jobs.define()
    [demand] = news(ask(jobs, "a"), DemandChanged)  # type: ignore[arg-type]
    assert demand.queued == 1
    assert ask(jobs, "b", "a") == []
    jobs.pod()
    assert only(jobs.finish("task-1"), SendTask).request_id == "b"


def test_a_failure_ends_everything_behind_it(jobs: Jobs) -> None:
    jobs.define()
    jobs.pod()
    ask(jobs, "a")
    ask(jobs, "b", "a")
    ask(jobs, "c", "b")
    actions = jobs.finish("task-1", outcome=ERROR, payload=BOOM)
    ends = {end.request_id: end for end in of_type(actions, FinishRequest)}
    assert [(end.outcome.kind, end.outcome.dependency, end.payload) for end in ends.values()] == [
        ("error", "", BOOM),
        ("error", "a", BOOM),
        ("error", "b", BOOM),
    ]
    assert ends["c"].timings.attempts == 0 and not of_type(actions, SendTask)


def test_two_results_that_come_at_the_same_instant_are_both_looked_at(jobs: Jobs) -> None:
    jobs.define()
    jobs.pod()
    ask(jobs, "outer")
    jobs(TaskBlocked("task-1"))
    ask(jobs, "ends well")
    ask(jobs, "child", "ends well", parent_task_id="task-1")
    jobs(RequestArrived("both", "link", "fn", depends_on=("outer", "child")))
    assert not of_type(jobs.finish("task-2"), FinishRequest)[1:]
    jobs(RequestCancelled("outer"))
    ends = of_type(jobs.finish("task-3"), FinishRequest) + of_type(jobs.finish("task-1"), FinishRequest)
    assert {end.request_id: end.outcome.kind for end in ends}["both"] == "cancelled"


def test_a_long_chain_ends_without_deep_recursion(jobs: Jobs) -> None:
    jobs.define()
    jobs.pod()
    ask(jobs, "rq-0")
    for number in range(1, 3000):
        jobs.core.handle(RequestArrived(f"rq-{number}", "link", "fn", depends_on=(f"rq-{number - 1}",)), 0.0)
    assert len(of_type(jobs(RequestCancelled("rq-0")), FinishRequest)) == 0
    actions = jobs.finish("task-1")
    assert {end.outcome.kind for end in of_type(actions, FinishRequest)} == {"cancelled"}
    assert len(of_type(actions, FinishRequest)) == 3000


def test_cancelling_what_waits_and_what_is_waited_for(jobs: Jobs) -> None:
    jobs.define()
    jobs.pod()
    ask(jobs, "a")
    ask(jobs, "b", "a")
    ask(jobs, "c", "a")
    end = only(jobs(RequestCancelled("b")), FinishRequest)
    assert (end.request_id, end.outcome.kind, end.outcome.dependency) == ("b", "cancelled", "")
    jobs(RequestCancelled("a"))
    ends = of_type(jobs.finish("task-1"), FinishRequest)
    assert [(end.request_id, end.outcome.kind, end.outcome.dependency) for end in ends] == [
        ("a", "cancelled", ""),
        ("c", "cancelled", "a"),
    ]


def test_unknown_and_broken_dependencies_end_the_call_at_once(jobs: Jobs) -> None:
    jobs.define()
    end = only(ask(jobs, "a", "nobody"), FinishRequest)  # type: ignore[arg-type]
    assert (end.outcome.kind, end.outcome.dependency) == ("refused", "nobody")
    end = only(ask(jobs, "itself", "itself"), FinishRequest)  # type: ignore[arg-type]
    assert end.outcome.kind == "refused"
    end = only(ask(jobs, "b", broken=ERROR, payload=BOOM), FinishRequest)  # type: ignore[arg-type]
    assert (end.outcome, end.payload) == (ERROR, BOOM)


def test_inputs_of_a_map_wait_each_for_itself(jobs: Jobs) -> None:
    jobs.define(max_inputs=2)
    jobs.pod(slots=2)
    ask(jobs, "good")
    ask(jobs, "bad")
    jobs(RequestArrived("map", "link", "fn", "map"))
    for index, name in enumerate(("good", "bad", "unknown")):
        jobs(MapInputArrived("map", index, Payload(), (name,)))
    jobs(MapInputsEnded("map", 3))
    assert only(jobs.finish("task-1"), SendTask).index == 0
    item = only(jobs.finish("task-2", outcome=ERROR, payload=BOOM), FinishItem)
    assert (item.index, item.outcome.dependency, item.payload) == (1, "bad", BOOM)
    actions = jobs.finish("task-3")
    assert only(actions, FinishItem).index == 0
    assert only(actions, FinishRequest).count == 3


def test_what_waits_ends_with_its_link_its_caller_and_its_function(jobs: Jobs) -> None:
    jobs.define()
    jobs.pod()
    ask(jobs, "outer")
    jobs(TaskBlocked("task-1"))
    ask(jobs, "first", parent_task_id="task-1")
    ask(jobs, "second", "first", parent_task_id="task-1")
    jobs(RequestArrived("other", "link-2", "fn", depends_on=("first",)))
    assert [end.request_id for end in of_type(jobs(LinkClosed("link-2")), FinishRequest)] == ["other"]
    ends = of_type(jobs.finish("task-1"), FinishRequest)
    assert [end.request_id for end in ends] == ["outer", "second"]
    ask(jobs, "third", "first")
    end = only(jobs(FunctionRemoved("fn")), FinishRequest)
    assert (end.request_id, end.outcome.kind) == ("third", "refused")
