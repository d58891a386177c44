from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from deepserve_runtime.core.batching import (
    Action,
    BatchPlan,
    ClockRang,
    DropInput,
    Event,
    InputArrived,
    InputLeft,
    RingAt,
    RunEnded,
    StartRun,
)


class Plan:
    """A BatchPlan whose inputs are numbers."""

    def __init__(self, max_runs: int = 1) -> None:
        self.plan = BatchPlan(max_runs)

    def __call__(self, event: Event, now_s: float) -> list[Action]:
        actions = self.plan.handle(event, now_s)
        self.plan.check_invariants()
        return actions

    def arrive(self, number: int, now_s: float, queue: str = "f", size: int = 3, wait_s: float = 1.0) -> list[Action]:
        return self(InputArrived(key(number), queue, size, wait_s), now_s)


def key(number: int) -> tuple[str, int]:
    return f"task-{number}", 1


def run(*numbers: int, queue: str = "f") -> StartRun:
    return StartRun(queue, tuple(key(number) for number in numbers))


def test_a_full_batch_runs_at_once_and_the_first_waits_no_longer_than_asked() -> None:
    plan = Plan()
    assert plan.arrive(1, 0.0) == [RingAt(1.0)]
    assert plan.arrive(2, 0.5) == []
    assert plan.arrive(3, 0.6) == [run(1, 2, 3)]
    plan(RunEnded(), 2.0)
    plan.arrive(4, 3.0)
    assert plan(ClockRang(), 3.5) == [RingAt(4.0)]
    assert plan(ClockRang(), 4.0) == [run(4)]


def test_what_waited_for_a_run_to_end_goes_at_once() -> None:
    plan = Plan()
    assert plan.arrive(1, 0.0, wait_s=0.0) == [run(1)]
    assert [plan.arrive(number, 0.1, wait_s=0.0) for number in (2, 3, 4, 5)] == [[]] * 4
    assert plan(RunEnded(), 0.2) == [run(2, 3, 4)]
    assert plan(RunEnded(), 0.3) == [run(5)]


def test_what_left_never_runs() -> None:
    plan = Plan()
    plan.arrive(1, 0.0)
    plan.arrive(2, 0.1)
    assert plan(InputLeft(key(1)), 0.2) == [DropInput(key(1)), RingAt(1.1)]
    assert plan(ClockRang(), 1.1) == [run(2)]
    assert plan(InputLeft(key(2)), 1.2) == []  # it runs: that is not the plan's to stop


def test_two_runs_side_by_side_and_the_queue_that_waited_longest_first() -> None:
    plan = Plan(max_runs=2)
    assert plan.arrive(1, 0.0, size=1) == [run(1)]
    assert plan.arrive(2, 0.0, size=1) == [run(2)]
    plan.arrive(3, 0.1, "late", wait_s=0.2)
    plan.arrive(4, 0.2, "soon", wait_s=0.0)
    assert plan(RunEnded(), 0.5) == [run(4, queue="soon")]
    assert plan(RunEnded(), 0.5) == [run(3, queue="late")]


@given(
    st.integers(1, 3),
    st.lists(st.tuples(st.sampled_from(["arrive", "leave", "end", "ring"]), st.integers(0, 3), st.integers(0, 2))),
)
def test_every_input_runs_once_or_is_dropped(max_runs: int, steps: list[tuple[str, int, int]]) -> None:
    plan, now_s, running, seen = Plan(max_runs), 0.0, 0, list[int]()
    num_arrived = 0

    def take(actions: list[Action]) -> None:
        nonlocal running
        for action in actions:
            if isinstance(action, StartRun):
                running += 1
                assert running <= max_runs and len(action.keys) <= 2
                seen.extend(int(task_id[5:]) for task_id, _ in action.keys)
            elif isinstance(action, DropInput):
                seen.append(int(action.key[0][5:]))

    for step, number, queue in steps:
        now_s += 0.3
        if step == "arrive":
            take(plan.arrive(num_arrived, now_s, str(queue), size=2, wait_s=0.5))
            num_arrived += 1
        elif step == "leave":
            take(plan(InputLeft(key(number)), now_s))
        elif step == "ring":
            take(plan(ClockRang(), now_s))
        elif running:
            running -= 1
            take(plan(RunEnded(), now_s))
    while len(seen) < num_arrived:
        now_s += 1.0
        take(plan(ClockRang(), now_s))
        if running:
            running -= 1
            take(plan(RunEnded(), now_s))
    assert sorted(seen) == list(range(num_arrived))
