"""Streams in the job executor: credit, the idle clock, and what a second attempt may do."""

from __future__ import annotations

from typing import Any

import pytest

from deepserve.protocol.credit import STREAM_BYTES
from deepserve.protocol.messages import Outcome
from deepserve.protocol.specs import RetrySpec
from deepserve_controller.core.actions import FinishRequest, SendCancel, SendCredit, SendTask
from deepserve_controller.core.events import (
    CreditGranted,
    PodLost,
    RequestArrived,
    RequestCancelled,
    TaskFinished,
    TaskProduced,
)
from tests.unit.deepserve_controller.harness import ERROR, Jobs, of_type, only


def stream(jobs: Jobs, **options: Any) -> SendTask:
    jobs.define(**options)
    jobs.pod()
    return only(jobs(RequestArrived("rq", "link", "fn", "stream")), SendTask)


def test_credit_counts_items_and_bytes(jobs: Jobs) -> None:
    task = stream(jobs)
    assert (task.credit, task.credit_bytes, task.resume_offset) == (64, STREAM_BYTES, 0)
    jobs(TaskProduced("task-1", 1, 0, 10, 1000))
    assert only(jobs(CreditGranted("rq", 7, 700)), SendCredit) == SendCredit("pod-1", "task-1", 7, 700)


@pytest.mark.parametrize("replay", ["resume", "verify"])
def test_a_second_attempt_goes_on_behind_what_was_passed_on(jobs: Jobs, replay: str) -> None:
    stream(jobs, retries=RetrySpec(2, initial_delay_s=0.1, jitter=False), replay=replay)
    jobs(TaskProduced("task-1", 1, 0, 10, 1000))
    jobs(TaskProduced("task-1", 1, 10, 5, 500))
    jobs(CreditGranted("rq", 12, 1200))
    assert not of_type(jobs.finish("task-1", 1, ERROR, may_retry=True), FinishRequest)
    again = only(jobs.advance(1.0), SendTask)
    assert (again.attempt, again.replay, again.resume_offset) == (2, replay, 15)
    assert (again.credit, again.credit_bytes) == (64 - 15 + 12, STREAM_BYTES - 1500 + 1200)
    jobs(TaskProduced("task-1", 1, 15))  # of the attempt that ended
    jobs(TaskProduced("task-1", 2, 15))
    finish = only(jobs.finish("task-1", 2), FinishRequest)
    assert (finish.outcome.kind, finish.count) == ("ok", 16)


def test_a_lost_pod_of_a_stream_that_may_replay_is_paid_by_its_own_account(jobs: Jobs) -> None:
    stream(jobs, retries=RetrySpec(0, initial_delay_s=0.1, pod_losses=1), replay="resume")
    jobs(TaskProduced("task-1", 1, 0, 3))
    assert not of_type(jobs(PodLost("pod-1", "", -9)), FinishRequest)
    jobs.pod("pod-2")
    assert only(jobs.advance(1.0), SendTask).resume_offset == 3
    finish = only(jobs(PodLost("pod-2", "", -9)), FinishRequest)
    assert (finish.outcome.kind, finish.outcome.code, finish.count) == ("pod_lost", "interrupted", 3)


def test_a_stream_is_interrupted_only_after_its_first_item(jobs: Jobs) -> None:
    stream(jobs)
    finish = only(jobs(PodLost("pod-1", "", -9)), FinishRequest)
    assert (finish.outcome.kind, finish.outcome.code) == ("pod_lost", "")
    jobs.pod("pod-2")
    jobs(RequestArrived("begun", "link", "fn", "stream"))
    jobs(TaskProduced("task-2", 1, 0))
    assert only(jobs(PodLost("pod-2", "", -9)), FinishRequest).outcome.code == "interrupted"


def test_an_error_without_retries_is_no_interruption(jobs: Jobs) -> None:
    stream(jobs, retries=RetrySpec(1), replay="")
    jobs(TaskProduced("task-1", 1, 0))
    assert only(jobs.finish("task-1", 1, ERROR), FinishRequest).outcome == ERROR
    jobs(RequestArrived("plain", "link", "fn", "stream"))
    jobs(TaskProduced("task-2", 1, 0))
    finish = only(jobs.finish("task-2", 1, ERROR, may_retry=True), FinishRequest)
    assert (finish.outcome.kind, finish.outcome.code) == ("error", "interrupted")


# --- the idle clock -----------------------------------------------------------------------------------------


def test_a_silent_stream_ends_by_its_idle_clock(jobs: Jobs) -> None:
    stream(jobs, idle_timeout_s=2.0)
    assert not jobs.advance(1.9)
    jobs(TaskProduced("task-1", 1, 0))
    assert not jobs.advance(1.9)
    jobs(TaskProduced("task-1", 1, 1))
    assert not jobs.advance(1.99)
    assert only(jobs.advance(0.02), SendCancel).reason == "timeout"
    finish = only(jobs.finish("task-1", 1, Outcome("timeout")), FinishRequest)
    assert (finish.outcome.kind, finish.outcome.clock) == ("timeout", "idle")
    assert "without an item of 2 s" in finish.outcome.detail


@pytest.mark.parametrize(("items", "size_bytes"), [(64, 64), (1, STREAM_BYTES)])
def test_a_slow_reader_stops_the_idle_clock(jobs: Jobs, items: int, size_bytes: int) -> None:
    stream(jobs, idle_timeout_s=2.0, timeout_s=0.0)
    jobs.advance(1.0)
    jobs(TaskProduced("task-1", 1, 0, items, size_bytes))
    assert not jobs.advance(1000.0)
    jobs(CreditGranted("rq", items, size_bytes))
    assert not of_type(jobs.advance(1.9), SendCancel)
    jobs(CreditGranted("rq", 1, 1))  # is no item
    assert only(jobs.advance(0.2), SendCancel).reason == "timeout"


def test_the_idle_clock_begins_anew_with_each_attempt_and_ends_with_it(jobs: Jobs) -> None:
    stream(jobs, idle_timeout_s=2.0, retries=RetrySpec(1, initial_delay_s=5.0, jitter=False))
    jobs.advance(1.5)
    jobs.finish("task-1", 1, ERROR, may_retry=True)
    assert not of_type(jobs.advance(4.0), SendCancel)
    assert only(jobs.advance(1.1), SendTask).attempt == 2
    assert not of_type(jobs.advance(1.8), SendCancel)
    assert only(jobs.finish("task-1", 2), FinishRequest).outcome.is_ok
    assert not jobs.advance(100.0)


def test_calls_and_streams_that_are_being_stopped_have_no_idle_clock(jobs: Jobs) -> None:
    jobs.define(idle_timeout_s=0.5, timeout_s=0.0)
    jobs.pod()
    jobs(RequestArrived("call", "link", "fn"))
    assert not jobs.advance(10.0)
    jobs.finish("task-1")
    jobs(RequestArrived("rq", "link", "fn", "stream"))
    jobs.advance(0.3)
    jobs(RequestCancelled("rq"))
    assert not of_type(jobs.advance(0.5), SendCancel)
    assert only(jobs(TaskFinished("task-2", 1, Outcome("cancelled"), 1.0)), FinishRequest).outcome.kind == "cancelled"
