"""Calls that tasks make: how deep, how long, and that they end with their caller."""

from __future__ import annotations

import pytest

from deepserve.protocol.messages import Outcome
from deepserve_controller.core.actions import FinishRequest, SendCancel, SendTask
from deepserve_controller.core.events import (
    PodLost,
    RequestArrived,
    RequestCancelled,
    TaskBlocked,
)
from tests.unit.deepserve_controller.harness import ERROR, Jobs, of_type, only, running


def test_calls_nested_too_deeply_are_refused_and_the_chain_is_named() -> None:
    jobs = Jobs(max_depth=7)
    jobs.define()
    jobs.define("fn-b", name="b")
    jobs.pod()
    jobs.pod("pod-2", "fn-b")
    parent = ""
    for depth in range(1, 9):
        actions = jobs(RequestArrived(f"rq-{depth}", "link", "fn-b" if depth % 2 else "fn", parent_task_id=parent))
        parent = f"task-{depth}"
        jobs(TaskBlocked(parent))
    outcome = only(actions, FinishRequest).outcome
    assert (outcome.kind, outcome.code) == ("refused", "depth")
    chain = "app/b > app/f > app/b > ... > app/f > app/b > app/f"
    assert outcome.detail == f"calls are nested 8 deep, at most 7 may be: {chain}"


def test_a_child_gets_no_more_time_than_is_left_to_its_caller(jobs: Jobs) -> None:
    running(jobs, "a", slots=4, timeout_s=10.0)
    jobs.advance(7.0)
    child = only(jobs(RequestArrived("child", "pod-1", "fn", parent_task_id="task-1")), SendTask)
    assert child.time_left_s == 3.0
    grandchild = only(jobs(RequestArrived("grandchild", "pod-1", "fn", parent_task_id="task-2")), SendTask)
    assert grandchild.time_left_s == 3.0


def test_the_inherited_deadline_counts_in_the_queue(jobs: Jobs) -> None:
    running(jobs, "a", timeout_s=2.0)
    jobs.define("fn-other")
    jobs(RequestArrived("child", "pod-1", "fn-other", parent_task_id="task-1", keep=True))
    jobs(RequestArrived("free", "link", "fn-other"))
    finish = only(jobs.advance(2.0), FinishRequest)
    assert finish.request_id == "child"
    text = "over the time left to its caller of 2 s; before it began"
    assert finish.outcome == Outcome("timeout", text, "before it began", "caller")
    assert only(jobs.pod("pod-2", "fn-other"), SendTask).request_id == "free"


@pytest.mark.parametrize("how", ["ends", "errs", "lost", "cancelled", "over its limit"])
def test_unfinished_children_end_with_their_caller_down_to_the_last(jobs: Jobs, how: str) -> None:
    jobs.define(timeout_s=5.0)
    for number in range(1, 4):
        jobs.pod(f"pod-{number}")
    jobs(RequestArrived("a", "link", "fn"))
    jobs(TaskBlocked("task-1"))
    jobs(RequestArrived("child", "pod-1", "fn", parent_task_id="task-1", keep=True))
    jobs(RequestArrived("grandchild", jobs.sent["child"].pod_id, "fn", parent_task_id="task-2"))
    jobs(RequestArrived("other", "link", "fn"))
    if how == "ends":
        jobs.finish("task-1")
    elif how == "errs":
        jobs.finish("task-1", outcome=ERROR)
    elif how == "lost":
        jobs(PodLost("pod-1", "", -11))
    elif how == "cancelled":
        jobs(RequestCancelled("a"))
    else:
        jobs.advance(5.0)
    assert jobs.states["child"] in ("stopping", "cancelled", "pod_lost")
    assert jobs.states["grandchild"] in ("stopping", "cancelled")
    jobs.advance(1.0)  # nobody obeys
    assert jobs.states["child"] in ("cancelled", "timeout", "pod_lost")
    assert jobs.states["grandchild"] == ("timeout" if how == "over its limit" else "cancelled")


def test_a_child_of_a_task_that_has_ended_is_cancelled(jobs: Jobs) -> None:
    running(jobs, "a")
    jobs.finish("task-1")
    actions = jobs(RequestArrived("child", "pod-1", "fn", parent_task_id="task-1"))
    assert only(actions, FinishRequest).outcome == Outcome("cancelled", "cancelled because its caller ended")


def test_a_chain_of_a_thousand_callers_is_cancelled_without_recursion() -> None:
    jobs = Jobs(max_depth=1000)
    jobs.define()
    jobs.pod()
    parent = ""
    for depth in range(1, 1001):
        jobs.core.handle(RequestArrived(f"rq-{depth}", "link", "fn", parent_task_id=parent), 0.0)
        parent = f"task-{depth}"
        jobs.core.handle(TaskBlocked(parent), 0.0)
    assert len(of_type(jobs(RequestCancelled("rq-1")), SendCancel)) == 1000
