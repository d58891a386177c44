"""Retries and lost pods: whether a task is started again, and on whose account."""

from __future__ import annotations

import pytest

from deepserve.protocol.messages import Outcome
from deepserve.protocol.specs import RetrySpec
from deepserve_controller.core.actions import FinishRequest, SendTask
from deepserve_controller.core.events import (
    PodLost,
    RequestArrived,
    RequestCancelled,
    TaskProduced,
)
from tests.unit.deepserve_controller.harness import ERROR, Jobs, of_type, only, running

# --- retries --------------------------------------------------------------------------------------------


def test_the_users_retries_wait_longer_each_time_and_are_finite(jobs: Jobs) -> None:
    retries = RetrySpec(2, initial_delay_s=1.0, backoff_coefficient=3.0, jitter=False)
    running(jobs, "a", retries=retries)
    assert not of_type(jobs.finish("task-1", 1, ERROR, may_retry=True), FinishRequest)
    assert not jobs.advance(0.9)
    assert only(jobs.advance(0.1), SendTask).attempt == 2
    jobs.finish("task-1", 2, ERROR, may_retry=True)
    assert not jobs.advance(2.9)
    assert only(jobs.advance(0.1), SendTask).attempt == 3
    finish = only(jobs.finish("task-1", 3, ERROR, may_retry=True), FinishRequest)
    assert finish.outcome == ERROR and finish.timings.attempts == 3


def test_what_the_pod_judged_as_not_covered_is_not_retried(jobs: Jobs) -> None:
    running(jobs, "a", retries=RetrySpec(2))
    assert only(jobs.finish("task-1", 1, ERROR), FinishRequest).outcome == ERROR


def test_a_request_that_waits_for_a_retry_can_be_cancelled(jobs: Jobs) -> None:
    running(jobs, "a", retries=RetrySpec(2))
    jobs.finish("task-1", 1, ERROR, may_retry=True)
    assert only(jobs(RequestCancelled("a")), FinishRequest).outcome.kind == "cancelled"
    assert not jobs.advance(100.0)


def test_a_stream_that_delivered_is_not_started_again(jobs: Jobs) -> None:
    jobs.define(retries=RetrySpec(2, initial_delay_s=0.1))
    jobs.pod()
    jobs(RequestArrived("silent", "link", "fn", "stream"))
    assert not of_type(jobs.finish("task-1", 1, ERROR, may_retry=True), FinishRequest)
    jobs.advance(1.0)
    jobs(TaskProduced("task-1", 2, 0))
    jobs(TaskProduced("task-1", 2, 1))
    finish = only(jobs.finish("task-1", 2, ERROR, may_retry=True), FinishRequest)
    assert (finish.outcome.kind, finish.outcome.code, finish.count) == ("error", "interrupted", 2)


# --- lost pods ------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("exit_code", "text"),
    [(3, "exit code 3"), (-11, "killed by SIGSEGV"), (None, "its connection ended")],
)
def test_a_task_whose_pod_died_ends_as_pod_lost(jobs: Jobs, exit_code: int | None, text: str) -> None:
    running(jobs, "a")
    finish = only(jobs(PodLost("pod-1", "", exit_code)), FinishRequest)
    assert finish.outcome == Outcome("pod_lost", f"pod-1 was lost: {text}")


def test_lost_pods_have_an_account_of_their_own_beside_the_users_retries(jobs: Jobs) -> None:
    running(jobs, "a", retries=RetrySpec(1, initial_delay_s=0.1, pod_losses=2))
    for number, attempt in ((1, 2), (2, 3)):
        assert not of_type(jobs(PodLost(f"pod-{number}", "", -11)), FinishRequest)
        assert not of_type(jobs.pod(f"pod-{number + 1}"), SendTask)  # after a delay, as other retries
        assert only(jobs.advance(1.0), SendTask).attempt == attempt
    assert not of_type(jobs.finish("task-1", 3, ERROR, may_retry=True), FinishRequest)
    assert only(jobs.advance(1.0), SendTask).attempt == 4
    finish = only(jobs.finish("task-1", 4, ERROR, may_retry=True), FinishRequest)
    timings = finish.timings
    assert finish.outcome == ERROR
    assert (timings.attempts, timings.user_retries, timings.pod_losses) == (4, 1, 2)


def test_a_call_that_kills_pod_after_pod_ends_and_says_how_many(jobs: Jobs) -> None:
    running(jobs, "poison", retries=RetrySpec(9, initial_delay_s=0.1, pod_losses=2))
    for number in (1, 2):
        assert not of_type(jobs(PodLost(f"pod-{number}", "", -11)), FinishRequest)
        jobs.advance(1.0)
        jobs.pod(f"pod-{number + 1}")
    finish = only(jobs(PodLost("pod-3", "", -11)), FinishRequest)
    text = "pod-3 was lost: killed by SIGSEGV; the last of 3 pods lost under it"
    assert finish.outcome == Outcome("pod_lost", text)
    assert (finish.timings.user_retries, finish.timings.pod_losses) == (0, 3)


def test_retries_without_a_budget_for_lost_pods_do_not_cover_them(jobs: Jobs) -> None:
    running(jobs, "a", retries=RetrySpec(5, pod_losses=0))
    assert only(jobs(PodLost("pod-1", "", -11)), FinishRequest).outcome.kind == "pod_lost"


def test_generation_only_computes_and_is_moved_to_another_pod_twice(jobs: Jobs) -> None:
    running(jobs, "a", kind="model")
    for number in (1, 2):
        assert not of_type(jobs(PodLost(f"pod-{number}", "", -11)), FinishRequest)
        assert only(jobs.pod(f"pod-{number + 1}"), SendTask).attempt == number + 1
    assert only(jobs(PodLost("pod-3", "", -11)), FinishRequest).outcome.kind == "pod_lost"


def test_a_model_that_came_further_before_each_loss_is_not_to_blame(jobs: Jobs) -> None:
    running(jobs, "a", kind="model")
    for number in range(1, 6):
        jobs(TaskProduced("task-1", number, 0, 0, 0, journal_bytes=40))
        assert not of_type(jobs(PodLost(f"pod-{number}", "", -9)), FinishRequest)
        assert only(jobs.pod(f"pod-{number + 1}"), SendTask).attempt == number + 1
    for number in (6, 7):
        assert not of_type(jobs(PodLost(f"pod-{number}", "", -9)), FinishRequest)
        jobs.pod(f"pod-{number + 1}")
    finish = only(jobs(PodLost("pod-8", "", -9)), FinishRequest)
    assert "the last of 8 pods lost under it" in finish.outcome.detail


def test_a_pod_lost_while_it_stops_a_task_stops_it(jobs: Jobs) -> None:
    running(jobs, "a")
    jobs(RequestCancelled("a"))
    finish = only(jobs(PodLost("pod-1", "", 1)), FinishRequest)
    assert finish.outcome == Outcome("cancelled", "cancelled by the caller; its pod was lost meanwhile", "pod lost")


def test_late_and_repeated_news_of_a_task_is_ignored(jobs: Jobs) -> None:
    running(jobs, "a")
    jobs.finish("task-1")
    assert jobs.finish("task-1") == []
    assert jobs(PodLost("pod-9", "", None)) == []
