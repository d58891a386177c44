"""Chunks: how large they are, and that each input in them ends as if it had come alone."""

from __future__ import annotations

from typing import Any

from deepserve.protocol.messages import Outcome
from deepserve.protocol.specs import RetrySpec
from deepserve_controller.core import events
from deepserve_controller.core.actions import (
    Action,
    FinishItem,
    FinishItems,
    FinishRequest,
    ForgetChunk,
    KillPod,
    SendCancel,
    SendChunk,
    SendRecall,
    SendTask,
)
from deepserve_controller.core.chunk_views import MapLoad
from deepserve_controller.core.map_inputs import MapInputs, Run
from deepserve_controller.core.run_times import RunTimes
from deepserve_controller.policies.chunking import MAX_INPUTS, by_run_time
from tests.unit.deepserve_controller.chaos_chunks import input_bytes, many_inputs
from tests.unit.deepserve_controller.harness import OK, Jobs, of_type, only

# --- the policy -----------------------------------------------------------------------------------------


def size(waiting: int, slots: int, mean_run_s: float, limit_s: float = 300.0) -> int:
    return by_run_time(MapLoad(waiting, slots, mean_run_s, limit_s)).inputs


def test_a_chunk_is_about_two_milliseconds_of_work() -> None:
    assert size(10_000, 2, 0.0001) == 20
    assert size(10_000, 2, 0.000001) == MAX_INPUTS
    assert size(10_000, 2, 0.1) == 1


def test_a_chunk_is_no_more_than_a_slots_share_of_what_waits() -> None:
    assert [size(waiting, 2, 0.000001) for waiting in (100, 51, 2, 1)] == [50, 26, 1, 1]
    assert size(64, 64, 0.000001) == 1


def test_what_is_unknown_or_has_little_time_goes_alone() -> None:
    assert size(10_000, 2, 0.0) == size(10_000, 2, 0.000001, limit_s=0.05) == 1
    assert size(10_000, 2, 0.000001, limit_s=0.0) == MAX_INPUTS
    assert "measured" in by_run_time(MapLoad(9, 1, 0.0, 0.0)).reason
    assert "share of 100 inputs" in by_run_time(MapLoad(100, 2, 0.000001, 0.0)).reason


def test_run_times_forget_a_slow_start_and_tell_methods_apart() -> None:
    times = RunTimes()
    assert times.mean_s("a") == 0.0
    times.learn("a", 0.5)
    times.learn("a", 0.001 * 50, 50)
    assert 0.0009 < times.mean_s("a") < 0.0012 and times.mean_s("b") == 0.0


# --- inputs that wait -------------------------------------------------------------------------------------


def test_inputs_are_taken_over_the_borders_of_their_frames() -> None:
    jobs = started()
    job = jobs.core._jobs.get("map")
    assert job is not None
    inputs = MapInputs(job, job.inputs.function)  # type: ignore[union-attr]
    for first, count in ((0, 3), (3, 4), (7, 1)):
        event = many_inputs("map", first, count)
        inputs.put(Run(first, event.sizes, event.data, "", 0.0))
    taken = inputs.take(5)
    assert (taken.first_index, len(taken), bytes(taken.data)) == (0, 5, b"".join(map(input_bytes, range(5))))
    assert taken.payload(4).data == input_bytes(4)
    inputs.put_back(taken.part(3, 5))
    again = inputs.take(100)
    assert (again.first_index, len(again), bytes(again.data)) == (3, 5, b"".join(map(input_bytes, range(3, 8))))
    assert not inputs.num_waiting
    inputs.check_invariants()


# --- the core ---------------------------------------------------------------------------------------------


def started(count: int = 12, **options: Any) -> Jobs:
    """A function of one pod, whose runs are known to be short, and a map of which the pod has all but one input."""
    jobs = Jobs()
    jobs.define(**options)
    jobs.pod()
    jobs(events.RequestArrived("warm", "link", "fn"))
    jobs(events.TaskFinished("task-1", 1, OK, 0.01))
    jobs(events.RequestArrived("map", "link", "fn", "map"))
    jobs(many_inputs("map", 0, 1))
    jobs(many_inputs("map", 1, count))
    jobs(events.MapInputsEnded("map", count + 1))
    return jobs


def with_chunk(count: int = 12, **options: Any) -> tuple[Jobs, SendChunk]:
    jobs = started(count, **options)
    actions = jobs(events.TaskFinished("task-2", 1, OK, 0.01))
    return jobs, only(actions, SendChunk)


def told(jobs: Jobs, chunk: SendChunk, position: int, count: int, run_ms: float = 0.01) -> list[Action]:
    sizes = chunk.sizes[position : position + count]
    at = sum(chunk.sizes[:position])
    data = bytes(chunk.data[at : at + sum(sizes)])
    return jobs(events.InputsFinished(chunk.task_id, 1, position, sizes, data, run_ms))


def test_inputs_that_wait_go_to_a_pod_in_one_chunk() -> None:
    jobs, chunk = with_chunk()
    assert (chunk.first_index, len(chunk.sizes), chunk.attempt) == (1, 12, 1)
    items = only(told(jobs, chunk, 0, 5), FinishItems)
    assert (items.first_index, len(items.sizes)) == (1, 5)
    assert not told(jobs, chunk, 0, 5), "the same again"
    actions = told(jobs, chunk, 5, 7)
    assert only(actions, FinishRequest).count == 13 and only(actions, ForgetChunk).task_id == chunk.task_id


def test_one_failing_input_is_retried_alone() -> None:
    jobs, chunk = with_chunk(retries=RetrySpec(1, 0.5, jitter=False))
    told(jobs, chunk, 0, 3)
    failed = events.InputFinished(chunk.task_id, 1, 3, Outcome("error", "ValueError"), 0.1, may_retry=True)
    assert not of_type(jobs(failed), FinishItem)
    told(jobs, chunk, 4, 8)
    again = only(jobs.advance(0.5), SendTask)
    assert (again.index, again.attempt, again.payload.data) == (4, 2, input_bytes(4))
    actions = jobs.finish(again.task_id, 2, Outcome("error", "ValueError"), may_retry=True)
    assert only(actions, FinishItem).outcome.kind == "error" and only(actions, FinishRequest).count == 13


def test_what_has_not_begun_is_recalled_when_nothing_is_heard() -> None:
    jobs, chunk = with_chunk()
    assert only(jobs.advance(0.02), SendRecall).task_id == chunk.task_id
    told(jobs, chunk, 0, 4)
    jobs.pod("pod-2")
    actions = jobs(events.InputsReturned(chunk.task_id, 1, 5, 0.019))
    others = only(actions, SendChunk)
    assert (others.pod_id, others.first_index, others.attempt) == ("pod-2", 6, 1)


def test_news_puts_a_recall_off_and_a_blocked_input_hastens_it() -> None:
    jobs, chunk = with_chunk()
    jobs.advance(0.008)
    told(jobs, chunk, 0, 2)
    assert not of_type(jobs.advance(0.009), SendRecall)
    assert only(jobs(events.TaskBlocked(chunk.task_id)), SendRecall)


def test_the_limit_is_that_of_the_input_that_runs() -> None:
    jobs, chunk = with_chunk(timeout_s=2.0)
    jobs.advance(0.02)
    told(jobs, chunk, 0, 4)
    jobs(events.InputsReturned(chunk.task_id, 1, 5, 0.015))
    assert not of_type(jobs.advance(1.97), SendCancel)
    assert only(jobs.advance(0.02), SendCancel).reason == "timeout"
    stopped = events.InputFinished(chunk.task_id, 1, 4, Outcome("timeout"), 2000.0)
    actions = jobs(stopped)
    assert (only(actions, FinishItem).index, only(actions, FinishItem).outcome.kind) == (5, "timeout")
    assert (only(actions, SendTask).index, only(actions, SendTask).attempt) == (6, 1), "alone: the last run was long"


def test_a_pod_that_answers_no_recall_is_killed_and_the_input_that_ran_is_over_its_time() -> None:
    jobs, chunk = with_chunk(timeout_s=2.0)
    jobs.advance(0.02)
    jobs(events.InputsBegun(chunk.task_id, 1, 3))
    actions = jobs.advance(3.1)
    assert only(actions, KillPod) and only(actions, FinishItem).outcome.clock == "run"
    assert only(actions, FinishItem).index == 3, "the third of the chunk, which began with input 1"
    jobs.pod("pod-2")
    sent = of_type(told_all(jobs), SendTask)
    assert all(task.attempt == 2 for task in sent), "what may have begun is counted as begun"


def told_all(jobs: Jobs) -> list[Action]:
    """Whatever waits is given to the pod and ends at once; returns what was sent."""
    sent: list[Action] = []
    actions = jobs.pod("pod-3")
    for _ in range(50):
        tasks = of_type(actions, SendTask)
        if not tasks:
            break
        sent += tasks
        actions = jobs.finish(tasks[0].task_id, tasks[0].attempt)
    return sent


def test_a_dead_pod_takes_only_the_input_that_ran_with_it() -> None:
    jobs, chunk = with_chunk()
    told(jobs, chunk, 0, 2)
    lost = events.PodLost("pod-1", "", -9, {(chunk.task_id, 1): 5})
    actions = jobs(lost)
    assert [(item.index, item.outcome.kind) for item in of_type(actions, FinishItem)] == [(5, "pod_lost")]
    sent = jobs.pod("pod-2")
    begun_before = only(sent, SendTask)
    assert (begun_before.index, begun_before.attempt) == (3, 2), "its result had not left the pod: it is run again"
    behind = only(jobs(events.TaskFinished(begun_before.task_id, 2, OK, 0.01)), SendChunk)
    assert (behind.first_index, len(behind.sizes)) == (6, 7), "uncounted"


def test_a_dead_pod_that_ran_none_of_them_takes_none_with_it() -> None:
    jobs, chunk = with_chunk()
    told(jobs, chunk, 0, 2)
    assert not of_type(jobs(events.PodLost("pod-1", "", -9, {(chunk.task_id, 1): 2})), FinishItem)
    assert only(jobs.pod("pod-2"), SendChunk).first_index == 3


def test_cancelling_a_map_stops_its_chunks() -> None:
    jobs, chunk = with_chunk()
    actions = jobs(events.RequestCancelled("map"))
    assert only(actions, SendCancel).task_id == chunk.task_id
    jobs(events.InputsReturned(chunk.task_id, 1, 3))
    told(jobs, chunk, 0, 2)
    actions = jobs(events.InputFinished(chunk.task_id, 1, 2, Outcome("cancelled"), 1.0))
    assert only(actions, FinishRequest).outcome.kind == "cancelled" and not of_type(actions, FinishItem)


def test_calls_and_maps_take_turns() -> None:
    jobs = started(400)
    jobs(events.RequestArrived("call-1", "link", "fn"))
    jobs(events.RequestArrived("call-2", "link", "fn"))
    actions = jobs(events.TaskFinished("task-2", 1, OK, 0.01))
    kinds = []
    for _ in range(4):
        order = (of_type(actions, SendChunk) + of_type(actions, SendTask))[0]
        kinds.append(type(order))
        if isinstance(order, SendChunk):
            actions = told(jobs, order, 0, len(order.sizes))
        else:
            actions = jobs(events.TaskFinished(order.task_id, 1, OK, 0.01))
    assert kinds in ([SendTask, SendChunk, SendTask, SendChunk], [SendChunk, SendTask, SendChunk, SendTask])


def test_inputs_out_of_order_and_wrong_counts_are_refused() -> None:
    jobs = Jobs()
    jobs.define()
    jobs(events.RequestArrived("a", "link", "fn", "map"))
    assert "input 0 was expected" in only(jobs(many_inputs("a", 3, 2)), FinishRequest).outcome.detail
    jobs(events.RequestArrived("b", "link", "fn", "map"))
    jobs(many_inputs("b", 0, 2))
    assert "3 inputs, but 2 came" in only(jobs(events.MapInputsEnded("b", 3)), FinishRequest).outcome.detail


def test_batched_functions_and_those_with_a_queue_timeout_take_no_chunks() -> None:
    for options in ({"queue_timeout_s": 5.0}, {"max_batch_size": 8}):
        jobs = Jobs()
        jobs.define(**options)
        jobs.pod(slots=4)
        jobs(events.RequestArrived("map", "link", "fn", "map"))
        assert len(of_type(jobs(many_inputs("map", 0, 9)), SendTask)) == 4
