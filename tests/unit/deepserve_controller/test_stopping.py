"""Time limits and cancellation: how running and waiting tasks are stopped."""

from __future__ import annotations

import pytest

from deepserve.protocol.messages import Outcome
from deepserve.protocol.specs import RetrySpec
from deepserve_controller.core.actions import FinishItem, FinishRequest, KillPod, SendCancel, SendTask
from deepserve_controller.core.events import (
    CancelReceived,
    DemandChanged,
    ExecutorFailed,
    LinkClosed,
    MapInputArrived,
    MapInputsEnded,
    Payload,
    PodDrained,
    PodLost,
    PodStuck,
    RequestArrived,
    RequestCancelled,
)
from tests.unit.deepserve_controller.harness import ERROR, Jobs, news, of_type, only, running

# --- limits ---------------------------------------------------------------------------------------------


def test_a_task_over_its_limit_is_stopped_cooperatively(jobs: Jobs) -> None:
    running(jobs, "a", timeout_s=2.0)
    assert not jobs.advance(1.9)
    assert only(jobs.advance(0.2), SendCancel) == SendCancel("pod-1", "task-1", 1, "timeout")
    finish = only(jobs.finish("task-1", outcome=Outcome("error", "whatever the code made of it")), FinishRequest)
    text = "over its time limit of 2 s; stopped cooperatively"
    assert finish.outcome == Outcome("timeout", text, "cooperatively", "run")
    assert not jobs.advance(10.0)


def test_a_task_that_does_not_stop_costs_its_pod(jobs: Jobs) -> None:
    running(jobs, "a", timeout_s=2.0)
    jobs.advance(2.0)
    actions = jobs.advance(1.0)
    assert only(actions, KillPod).pod_id == "pod-1"
    finish = only(actions, FinishRequest)
    assert finish.outcome == Outcome("timeout", "over its time limit of 2 s; pod killed", "pod killed", "run")
    assert finish.timings.pod_id == "pod-1"
    assert jobs(PodLost("pod-1", "killed", -9)) == []


def test_the_requests_own_limit_comes_first_and_waiting_does_not_count(jobs: Jobs) -> None:
    jobs.define(timeout_s=100.0)
    jobs(RequestArrived("a", "link", "fn", timeout_s=1.0))
    jobs.advance(5.0)
    assert only(jobs.pod(), SendTask).time_left_s == 1.0
    assert of_type(jobs.advance(1.0), SendCancel)


def test_other_tasks_of_a_killed_pod_run_again_elsewhere_once(jobs: Jobs) -> None:
    running(jobs, "bad", slots=2, timeout_s=2.0)
    jobs.advance(1.5)
    jobs(RequestArrived("good", "link", "fn"))
    actions = jobs.advance(1.5)
    assert only(actions, KillPod) and only(actions, FinishRequest).request_id == "bad"
    jobs(PodLost("pod-1", "killed", -9))
    again = only(jobs.pod("pod-2"), SendTask)
    assert (again.request_id, again.attempt) == ("good", 2)
    assert jobs.finish("task-2", attempt=1) == []  # late news from the killed pod
    finish = only(jobs.finish("task-2", attempt=2), FinishRequest)
    assert finish.outcome.is_ok and finish.timings.attempts == 2


def test_a_task_whose_pods_are_killed_for_others_runs_again_three_times(jobs: Jobs) -> None:
    running(jobs, "bad", "good", slots=2)
    for number in range(1, 5):
        actions = jobs(RequestCancelled("bad" if number == 1 else f"bad-{number}", force=True))
        lost = [finish for finish in of_type(actions, FinishRequest) if finish.request_id == "good"]
        if number < 4:
            jobs.pod(f"pod-{number + 1}", slots=2)
            jobs(RequestArrived(f"bad-{number + 1}", "link", "fn"))
    [finish] = lost
    text = "pod-4 was killed: task-5 had to be stopped; the last of 4 pods lost under it"
    assert (finish.outcome, finish.timings.pod_losses) == (Outcome("pod_lost", text), 4)


def test_what_was_requeued_too_often_is_lost() -> None:
    jobs = Jobs(system_retries=0)
    running(jobs, "bad", "good", slots=2)
    actions = jobs(RequestCancelled("bad", force=True))
    outcomes = {finish.request_id: finish.outcome.kind for finish in of_type(actions, FinishRequest)}
    assert outcomes == {"bad": "cancelled", "good": "pod_lost"}


def test_a_map_input_over_its_limit_ends_alone(jobs: Jobs) -> None:
    jobs.define(timeout_s=1.0, max_inputs=2)
    jobs.pod(slots=2)
    jobs(RequestArrived("map", "link", "fn", "map"))
    jobs(MapInputArrived("map", 0, Payload()))
    jobs.advance(0.5)
    jobs(MapInputArrived("map", 1, Payload()))
    jobs(MapInputsEnded("map", 2))
    jobs.advance(0.5)
    assert only(jobs.finish("task-1"), FinishItem).outcome.kind == "timeout"
    actions = jobs.finish("task-2")
    assert only(actions, FinishItem).outcome.is_ok and only(actions, FinishRequest).count == 2


# --- cancellation ---------------------------------------------------------------------------------------


def test_a_queued_request_is_cancelled_at_once(jobs: Jobs) -> None:
    running(jobs, "a", "b")
    actions = jobs(RequestCancelled("b"))
    assert only(actions, FinishRequest).outcome == Outcome(
        "cancelled", "cancelled by the caller; before it began", "before it began"
    )
    assert not of_type(actions, SendCancel)
    assert not of_type(jobs.finish("task-1"), SendTask)


@pytest.mark.parametrize("answer", ["ok", "error", "cancelled"])
def test_a_running_request_is_cancelled_whatever_the_pod_answers(jobs: Jobs, answer: str) -> None:
    running(jobs, "a", retries=RetrySpec(3))
    assert only(jobs(RequestCancelled("a")), SendCancel).reason == "cancelled"
    assert jobs(RequestCancelled("a")) == []
    actions = jobs.finish("task-1", outcome=Outcome(answer), may_retry=True)
    stopped = Outcome("cancelled", "cancelled by the caller; stopped cooperatively", "cooperatively")
    assert only(actions, FinishRequest).outcome == stopped


def test_a_cancelled_request_that_goes_on_costs_its_pod(jobs: Jobs) -> None:
    running(jobs, "a")
    jobs(RequestCancelled("a"))
    assert not jobs.advance(0.9)
    assert only(jobs.advance(0.1), FinishRequest).outcome.detail == "cancelled by the caller; pod killed"


def test_force_kills_at_once_also_after_a_gentle_cancel(jobs: Jobs) -> None:
    running(jobs, "a")
    jobs(RequestCancelled("a"))
    actions = jobs(RequestCancelled("a", force=True))
    assert only(actions, KillPod) and only(actions, FinishRequest).outcome.kind == "cancelled"


def test_a_cancelled_map_ends_when_its_last_running_input_has_stopped(jobs: Jobs) -> None:
    jobs.define()
    jobs.pod("pod-1")
    jobs.pod("pod-2")
    jobs(RequestArrived("map", "link", "fn", "map"))
    for index in range(4):
        jobs(MapInputArrived("map", index, Payload()))
    jobs.finish("task-1")  # task-3 follows on its pod
    assert len(of_type(jobs(RequestCancelled("map")), SendCancel)) == 2
    jobs(MapInputArrived("map", 4, Payload()))
    assert not of_type(jobs.finish("task-2"), FinishRequest)
    actions = jobs.finish("task-3")
    assert not of_type(actions, FinishItem)
    finish = only(actions, FinishRequest)
    assert (finish.outcome.kind, finish.count) == ("cancelled", 1)


def test_a_closed_link_cancels_what_is_not_kept(jobs: Jobs) -> None:
    jobs.define()
    jobs(RequestArrived("a", "link-1", "fn"))
    jobs(RequestArrived("kept", "link-1", "fn", keep=True))
    jobs(RequestArrived("b", "link-2", "fn"))
    actions = jobs(LinkClosed("link-1"))
    assert only(actions, FinishRequest).request_id == "a"
    assert only(jobs.pod(), SendTask).request_id == "kept"


# --- one of several on a pod ----------------------------------------------------------------------------


def stuck(jobs: Jobs) -> None:
    """Of three calls on pod-1 the first, `bad`, is cancelled, and its pod confirms that it was told."""
    running(jobs, "bad", "good", "other", slots=3, max_inputs=3)
    assert only(jobs(RequestCancelled("bad")), SendCancel).task_id == "task-1"
    jobs(CancelReceived("task-1", 1))


def test_a_stuck_task_ends_after_its_grace_and_its_pod_when_the_others_are_done(jobs: Jobs) -> None:
    stuck(jobs)
    actions = jobs.advance(1.0)
    assert not of_type(actions, KillPod)
    finish = only(actions, FinishRequest)
    assert (finish.request_id, finish.outcome.stopped) == ("bad", "pod draining")
    assert finish.outcome.detail.endswith("it did not stop: its pod is killed when the pod's other inputs are done")
    assert news(actions, PodStuck) == [PodStuck("pod-1", "task-1 did not stop within 1 s")]
    actions = jobs(RequestArrived("new", "link", "fn"))
    assert not of_type(actions, SendTask) and news(actions, DemandChanged)[0].queued == 1
    assert only(jobs.pod("pod-2"), SendTask).request_id == "new"
    assert not of_type(jobs.finish("task-2"), KillPod)
    actions = jobs.finish("task-3")
    assert only(actions, FinishRequest).outcome.is_ok and not news(actions, PodDrained)
    assert only(actions, KillPod).reason == "task-1 did not stop, and its other tasks are done"
    assert jobs(PodLost("pod-1", "killed", -9)) == []


def test_a_pod_that_does_not_even_confirm_is_killed_and_its_other_tasks_run_again_counted(jobs: Jobs) -> None:
    running(jobs, "bad", "good", slots=2)
    jobs(RequestCancelled("bad"))
    actions = jobs.advance(1.0)
    assert only(actions, KillPod) and only(actions, FinishRequest).outcome.stopped == "pod killed"
    assert only(jobs.pod("pod-2"), SendTask).request_id == "good"
    timings = only(jobs.finish("task-2", 2), FinishRequest).timings
    assert (timings.attempts, timings.pod_losses, timings.user_retries) == (2, 1, 0)


def test_a_task_that_stops_late_saves_its_pod_from_being_killed(jobs: Jobs) -> None:
    stuck(jobs)
    jobs.advance(1.0)
    assert jobs.finish("task-1", outcome=Outcome("cancelled")) == []
    jobs.finish("task-2")
    actions = jobs.finish("task-3")
    assert news(actions, PodDrained) == [PodDrained("pod-1")] and not of_type(actions, KillPod)


def test_the_drain_of_a_stuck_pod_is_bounded_by_the_limits_of_its_other_tasks(jobs: Jobs) -> None:
    running(jobs, "bad", "endless", slots=2, timeout_s=5.0)
    jobs(RequestCancelled("bad"))
    jobs(CancelReceived("task-1", 1))
    jobs.advance(4.9)
    jobs(CancelReceived("task-2", 1))
    actions = jobs.advance(1.2)
    assert only(actions, KillPod) and only(actions, FinishRequest).outcome.stopped == "pod killed"


def test_force_ends_a_draining_pod_and_runs_the_others_again(jobs: Jobs) -> None:
    stuck(jobs)
    jobs.advance(1.0)
    actions = jobs(RequestCancelled("good", force=True))
    assert only(actions, KillPod) and only(actions, FinishRequest).request_id == "good"
    assert only(jobs.pod("pod-2"), SendTask).request_id == "other"


def test_a_lost_pod_takes_its_stuck_task_along(jobs: Jobs) -> None:
    stuck(jobs)
    jobs.advance(1.0)
    assert len(of_type(jobs(PodLost("pod-1", "", -11)), FinishRequest)) == 2
    assert jobs.finish("task-1") == []


def test_a_map_says_how_the_hardest_of_its_inputs_was_stopped(jobs: Jobs) -> None:
    jobs.define()
    for number in (1, 2):
        jobs.pod(f"pod-{number}")
    jobs(RequestArrived("map", "link", "fn", "map"))
    for index in range(4):
        jobs(MapInputArrived("map", index, Payload()))
    jobs(RequestCancelled("map"))
    jobs.finish("task-1", outcome=Outcome("cancelled"))
    assert only(jobs.advance(1.0), FinishRequest).outcome.stopped == "pod killed"


# --- clocks ---------------------------------------------------------------------------------------------


def test_the_queue_clock_runs_while_a_call_waits_for_a_pod(jobs: Jobs) -> None:
    running(jobs, "a", queue_timeout_s=3.0)
    jobs(RequestArrived("b", "link", "fn"))
    assert not jobs.advance(2.9)
    finish = only(jobs.advance(0.2), FinishRequest)
    text = "over its time to wait for a pod of 3 s; before it began"
    assert (finish.request_id, finish.outcome) == ("b", Outcome("timeout", text, "before it began", "queue"))
    assert not jobs.advance(200.0)  # the one that runs has no part in it
    assert only(jobs.finish("task-1"), FinishRequest).outcome.is_ok


def test_the_queue_clock_begins_anew_when_a_call_waits_again(jobs: Jobs) -> None:
    running(jobs, "a", queue_timeout_s=3.0, retries=RetrySpec(1, initial_delay_s=1.0, jitter=False))
    jobs.advance(2.0)
    jobs.finish("task-1", 1, ERROR, may_retry=True)
    jobs(PodLost("pod-1", "", 1))
    assert not of_type(jobs.advance(3.9), FinishRequest)
    finish = only(jobs.advance(0.2), FinishRequest)
    assert (finish.outcome.clock, finish.outcome.stopped) == ("queue", "while it waited")


def test_each_input_of_a_map_waits_on_its_own_queue_clock(jobs: Jobs) -> None:
    running(jobs, "a", queue_timeout_s=2.0)
    jobs(RequestArrived("map", "link", "fn", "map"))
    jobs(MapInputArrived("map", 0, Payload()))
    jobs.advance(1.0)
    jobs(MapInputArrived("map", 1, Payload()))
    jobs(MapInputsEnded("map", 2))
    assert only(jobs.advance(1.0), FinishItem).outcome.clock == "queue"
    actions = jobs.advance(1.0)
    assert only(actions, FinishItem).index == 1 and only(actions, FinishRequest).count == 2


def test_code_that_loads_too_slowly_runs_out_of_the_startup_clock(jobs: Jobs) -> None:
    jobs.define()
    jobs(RequestArrived("a", "link", "fn"))
    finish = only(jobs(ExecutorFailed("pod-1", "fn", "not ready", is_slow=True)), FinishRequest)
    assert finish.outcome == Outcome("timeout", "not ready; before it began", "before it began", "startup")
