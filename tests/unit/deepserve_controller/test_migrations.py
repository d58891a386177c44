"""Running sequences that move to another pod: in rounds, then the swap, and whatever can come between."""

from __future__ import annotations

from random import Random
from typing import Any

import pytest

from deepserve.protocol.messages import Outcome
from deepserve.protocol.model_io import JOURNAL_TOKEN_BYTES
from deepserve_controller.core.actions import (
    Action,
    FinishRequest,
    SendCancel,
    SendPrepare,
    SendRelease,
    SendTask,
)
from deepserve_controller.core.events import (
    MoveAsked,
    PodDrained,
    PodDrainStarted,
    PodLost,
    RequestArrived,
    RequestCancelled,
    TaskPrepared,
    TaskProduced,
    TaskReleased,
)
from deepserve_controller.core.migration_views import MigrationRound
from deepserve_controller.policies.migration import MAX_ROUNDS, SMALL_GAP_TOKENS, until_the_gap_is_small
from tests.unit.deepserve_controller.harness import Jobs, news, of_type, only


def model(jobs: Jobs, *requests: str, slots: int = 4, **options: Any) -> None:
    """All requests on pod-1, and pod-2 beside it."""
    jobs.define(kind="model", replay="resume", max_inputs=slots, **options)
    jobs.pod("pod-1", slots=slots)
    for number, request_id in enumerate(requests, 1):
        jobs(RequestArrived(request_id, "link", "fn", "stream"))
        say(jobs, 1, f"task-{number}")
    jobs.pod("pod-2", slots=slots)


def say(jobs: Jobs, tokens: int, task_id: str = "task-1", attempt: int = 1) -> None:
    jobs(TaskProduced(task_id, attempt, 0, 0, 0, tokens * JOURNAL_TOKEN_BYTES))


def move(jobs: Jobs) -> SendPrepare:
    return only(jobs(MoveAsked("task-1", "nearer to its tokens", "pod-2")), SendPrepare)


def swapping(jobs: Jobs) -> SendRelease:
    move(jobs)
    return only(jobs(TaskPrepared("pod-2", "task-1", 1)), SendRelease)


def test_rounds_until_the_gap_is_small_and_then_the_swap(jobs: Jobs) -> None:
    model(jobs, "rq")
    say(jobs, 1000)
    assert move(jobs) == SendPrepare("pod-2", "task-1", 1, "rq", "", jobs.sent["rq"].payload)
    say(jobs, 500)
    assert only(jobs(TaskPrepared("pod-2", "task-1", 1)), SendPrepare).round == 2
    assert not jobs(TaskPrepared("pod-2", "task-1", 1)), "said twice"
    say(jobs, 20)
    assert jobs(TaskPrepared("pod-2", "task-1", 2)) == [SendRelease("pod-1", "task-1", 1)]
    say(jobs, 2)
    sent = only(jobs(TaskReleased("task-1", 1)), SendTask)
    assert (sent.pod_id, sent.attempt, sent.replay) == ("pod-2", 2, "resume")
    finish = only(jobs.finish("task-1", 2), FinishRequest)
    assert (finish.outcome.kind, finish.timings.pod_losses, finish.timings.attempts) == ("ok", 0, 2)
    reason = "nearer to its tokens; 500 tokens behind after 1 rounds; 20 tokens behind after 2 rounds"
    assert reason  # said in the task's reason, which the timeline shows


@pytest.mark.parametrize(
    ("view", "is_swap", "says"),
    [
        (MigrationRound(1, SMALL_GAP_TOKENS, 0), True, "64 tokens behind after 1 rounds"),
        (MigrationRound(1, 500, 0), False, "500 tokens behind"),
        (MigrationRound(2, 400, 500), False, "400 tokens behind"),
        (MigrationRound(2, 500, 500), True, "does not shrink"),
        (MigrationRound(MAX_ROUNDS, 400, 500), True, "the most"),
    ],
)
def test_when_to_swap(view: MigrationRound, is_swap: bool, says: str) -> None:
    step = until_the_gap_is_small(view)
    assert step.is_swap is is_swap and says in step.reason


def test_a_pod_that_is_to_go_gives_its_sequences_away(jobs: Jobs) -> None:
    model(jobs, "a", "b", "c")
    actions = jobs(PodDrainStarted("pod-1"))
    prepared = of_type(actions, SendPrepare)
    assert [(each.pod_id, each.task_id) for each in prepared] == [("pod-2", f"task-{number}") for number in (1, 2, 3)]
    gone: list[Action] = []
    for number in (1, 2, 3):
        jobs(TaskPrepared("pod-2", f"task-{number}", 1))
        gone += jobs(TaskReleased(f"task-{number}", 1))
    assert [sent.pod_id for sent in of_type(gone, SendTask)] == ["pod-2"] * 3
    assert [event.pod_id for event in news(gone, PodDrained)] == ["pod-1"]


def test_what_finds_no_room_ends_where_it_is(jobs: Jobs) -> None:
    model(jobs, "a", "b", "c", slots=3)
    jobs(RequestArrived("d", "link", "fn", "stream"))
    jobs(RequestArrived("e", "link", "fn", "stream"))
    assert [each.task_id for each in of_type(jobs(PodDrainStarted("pod-1")), SendPrepare)] == ["task-1"]
    assert only(jobs.finish("task-2"), FinishRequest).outcome.kind == "ok"


def test_what_is_not_journaled_moves_when_it_is(jobs: Jobs) -> None:
    model(jobs)
    jobs(RequestArrived("rq", "link", "fn", "stream"))
    assert not of_type(jobs(PodDrainStarted("pod-1")), SendPrepare)
    assert only(jobs(TaskProduced("task-1", 1, 0, 1, 9, 4)), SendPrepare).pod_id == "pod-2"
    assert not of_type(jobs(TaskProduced("task-1", 1, 1, 1, 9, 4)), SendPrepare)


def test_a_lost_stream_without_a_journal_is_not_begun_again(jobs: Jobs) -> None:
    model(jobs)
    jobs(RequestArrived("rq", "link", "fn", "stream"))
    jobs(TaskProduced("task-1", 1, 0, 1, 9))
    assert only(jobs(PodLost("pod-1", "", -9)), FinishRequest).outcome.kind == "pod_lost"


def test_functions_do_not_move(jobs: Jobs) -> None:
    jobs.define()
    jobs.pod("pod-1")
    jobs(RequestArrived("rq", "link", "fn"))
    jobs.pod("pod-2")
    assert not jobs(MoveAsked("task-1", "why not", "pod-2"))
    assert not of_type(jobs(PodDrainStarted("pod-1")), SendPrepare)


def test_to_where_there_is_most_room_unless_a_pod_is_named(jobs: Jobs) -> None:
    model(jobs, "rq")
    assert only(jobs(MoveAsked("task-1", "rebalancing")), SendPrepare).pod_id == "pod-2"
    assert not jobs(MoveAsked("task-1", "again", "pod-2")), "it moves already"
    assert not jobs(MoveAsked("task-9", "unknown")) and not jobs(MoveAsked("task-1", "where it is", "pod-1"))


# --- aborts -------------------------------------------------------------------------------------------


@pytest.mark.parametrize("is_swapping", [False, True])
def test_the_source_finishes_first(jobs: Jobs, is_swapping: bool) -> None:
    model(jobs, "rq")
    swapping(jobs) if is_swapping else move(jobs)
    assert only(jobs.finish("task-1"), FinishRequest).outcome.kind == "ok"
    assert not jobs(TaskPrepared("pod-2", "task-1", 1)) and not jobs(TaskReleased("task-1", 1))


@pytest.mark.parametrize("is_swapping", [False, True])
def test_the_source_dies(jobs: Jobs, is_swapping: bool) -> None:
    model(jobs, "rq")
    swapping(jobs) if is_swapping else move(jobs)
    sent = only(jobs(PodLost("pod-1", "", -9)), SendTask)
    assert (sent.pod_id, sent.attempt) == ("pod-2", 2)
    assert not jobs(TaskPrepared("pod-2", "task-1", 1)) and not jobs(TaskReleased("task-1", 1))
    assert only(jobs.finish("task-1", 2), FinishRequest).timings.pod_losses == 1


def test_the_destination_dies_and_the_sequence_stays(jobs: Jobs) -> None:
    model(jobs, "rq")
    move(jobs)
    jobs(PodLost("pod-2", "", -9))
    assert not jobs(TaskPrepared("pod-2", "task-1", 1))
    assert only(jobs.finish("task-1"), FinishRequest).timings.attempts == 1


def test_the_destination_dies_after_the_swap_began_and_another_takes_it(jobs: Jobs) -> None:
    model(jobs, "rq")
    jobs.pod("pod-3", slots=4)
    swapping(jobs)
    jobs(PodLost("pod-2", "", -9))
    assert only(jobs(TaskReleased("task-1", 1)), SendTask).pod_id == "pod-1", "the least loaded, by id"


def test_the_destination_cannot_hold_it(jobs: Jobs) -> None:
    model(jobs, "rq")
    move(jobs)
    assert not jobs(TaskPrepared("pod-2", "task-1", 1, "too long"))
    assert not of_type(jobs(PodDrainStarted("pod-1")), SendPrepare), "nor tries again"
    assert only(jobs.finish("task-1"), FinishRequest).timings.attempts == 1


@pytest.mark.parametrize("is_swapping", [False, True])
def test_it_is_cancelled_meanwhile(jobs: Jobs, is_swapping: bool) -> None:
    model(jobs, "rq")
    swapping(jobs) if is_swapping else move(jobs)
    assert of_type(jobs(RequestCancelled("rq")), SendCancel)
    assert not jobs(TaskPrepared("pod-2", "task-1", 1))
    ended = jobs(TaskReleased("task-1", 1)) if is_swapping else jobs.finish("task-1", outcome=Outcome("cancelled"))
    assert only(ended, FinishRequest).outcome.kind == "cancelled"


def test_its_time_runs_out_meanwhile(jobs: Jobs) -> None:
    model(jobs, "rq", timeout_s=5.0)
    swapping(jobs)
    jobs.advance(5.5)
    assert only(jobs(TaskReleased("task-1", 1)), FinishRequest).outcome.kind == "timeout"


def test_each_sequence_ends_once_whatever_happens() -> None:
    """Invariants are checked after each event."""
    for number in range(60):
        chance, jobs = Random(number), Jobs()
        requests = [f"rq-{n}" for n in range(6)]
        model(jobs, *requests[:3], slots=3)
        for request_id in requests[3:]:
            jobs(RequestArrived(request_id, "link", "fn", "call"))
        jobs.pod("pod-3", slots=3)
        next_pod, alive, actions, ended = 4, ["pod-1", "pod-2", "pod-3"], [], []
        for _ in range(120):
            running = [sent for name, sent in jobs.sent.items() if jobs.states[name] in ("running", "stopping")]
            if not running:
                break
            sent = chance.choice(running)
            orders = [each for each in actions if isinstance(each, SendPrepare | SendRelease)]
            luck = chance.random()
            if luck < 0.25 and orders:
                order = chance.choice(orders)
                actions.remove(order)
                if isinstance(order, SendPrepare):
                    new = jobs(TaskPrepared(order.pod_id, order.task_id, order.round, chance.choice(["", "", "no"])))
                else:
                    new = jobs(TaskReleased(order.task_id, order.attempt))
            elif luck < 0.45:
                new = jobs(MoveAsked(sent.task_id, "chance", chance.choice(["", *alive])))
            elif luck < 0.75:
                say_bytes = chance.choice([4, 400, 4000])
                new = jobs(TaskProduced(sent.task_id, sent.attempt, 0, 0, 0, say_bytes))
            elif luck < 0.82 and len(alive) > 1:
                new = jobs(
                    chance.choice([PodDrainStarted, lambda pod_id: PodLost(pod_id, "", -9)])(chance.choice(alive))
                )
                alive.append(f"pod-{next_pod}")
                new += jobs.pod(f"pod-{next_pod}", slots=3)
                next_pod += 1
            elif luck < 0.86:
                new = jobs(RequestCancelled(sent.request_id))
            else:
                new = jobs.finish(sent.task_id, sent.attempt)
            ended += [each.request_id for each in of_type(new, FinishRequest)]
            actions += new
        assert len(ended) == len(set(ended))
