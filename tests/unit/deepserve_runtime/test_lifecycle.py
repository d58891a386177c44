from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from deepserve.protocol.specs import CodeRef, FunctionSpec
from deepserve_runtime.core.lifecycle import (
    TRANSITIONS,
    BindArrived,
    CancelArrived,
    ControllerJoined,
    DialController,
    Event,
    ExecutorLoaded,
    ExecutorLoadFailed,
    ExecutorUnloaded,
    ExitPod,
    InterruptTask,
    LinkLost,
    LoadExecutor,
    PodLifecycle,
    PodStarted,
    RefuseTask,
    ReportFailed,
    ReportReady,
    RunTask,
    StopArrived,
    TaskArrived,
    TaskEnded,
    UnloadExecutor,
)

SPEC = FunctionSpec("app", "f", "function", CodeRef("builtin", "m", "f"))
BIND = BindArrived("fn-1", SPEC)
READY = ExecutorLoaded("fn-1", 2, {"import": 1.0})
ONE, TWO = ("t-1", 1), ("t-2", 1)


def lifecycle_after(*events: Event) -> PodLifecycle:
    lifecycle = PodLifecycle()
    for event in events:
        lifecycle.handle(event, 0.0)
        lifecycle.check_invariants()
    return lifecycle


def warm() -> PodLifecycle:
    return lifecycle_after(PodStarted(), ControllerJoined())


def bound(*tasks: tuple[str, int]) -> PodLifecycle:
    return lifecycle_after(PodStarted(), ControllerJoined(), BIND, READY, *[TaskArrived(key) for key in tasks])


def test_from_cold_to_bound() -> None:
    lifecycle = PodLifecycle()
    assert lifecycle.handle(PodStarted(), 0.0) == [DialController()]
    assert lifecycle.handle(ControllerJoined(), 0.0) == []
    assert lifecycle.state == "warm"
    assert lifecycle.handle(BIND, 0.0) == [LoadExecutor("fn-1", SPEC)]
    assert lifecycle.handle(READY, 0.0) == [ReportReady("fn-1", 2, {"import": 1.0})]
    assert lifecycle.state == "bound"


def test_tasks_run_and_are_interrupted_only_while_they_run() -> None:
    lifecycle = bound()
    assert lifecycle.handle(TaskArrived(ONE), 0.0) == [RunTask(ONE)]
    assert lifecycle.handle(TaskArrived(ONE), 0.0) == []  # delivered twice
    assert lifecycle.handle(CancelArrived(TWO, "timeout"), 0.0) == []
    assert lifecycle.handle(CancelArrived(ONE, "timeout"), 0.0) == [InterruptTask(ONE, "timeout")]
    assert lifecycle.handle(TaskEnded(ONE), 0.0) == []
    assert lifecycle.handle(CancelArrived(ONE, "timeout"), 0.0) == []


def test_a_second_attempt_is_another_task() -> None:
    assert bound(ONE).handle(TaskArrived(("t-1", 2)), 0.0) == [RunTask(("t-1", 2))]


def test_a_pod_is_bound_once() -> None:
    for lifecycle in (bound(), lifecycle_after(PodStarted(), ControllerJoined(), BIND)):
        [action] = lifecycle.handle(BindArrived("fn-2", SPEC), 0.0)
        assert isinstance(action, ReportFailed) and action.function_id == "fn-2"


def test_tasks_are_refused_where_nothing_is_bound() -> None:
    for lifecycle in (warm(), lifecycle_after(PodStarted(), ControllerJoined(), BIND)):
        [action] = lifecycle.handle(TaskArrived(ONE), 0.0)
        assert isinstance(action, RefuseTask)


def test_stop_drains_then_unloads_then_exits() -> None:
    lifecycle = bound(ONE, TWO)
    assert lifecycle.handle(StopArrived("shutdown"), 0.0) == [
        InterruptTask(ONE, "shutdown"),
        InterruptTask(TWO, "shutdown"),
    ]
    assert isinstance(lifecycle.handle(TaskArrived(("t-3", 1)), 0.0)[0], RefuseTask)
    assert lifecycle.handle(TaskEnded(ONE), 0.0) == []
    assert lifecycle.handle(TaskEnded(TWO), 0.0) == [UnloadExecutor()]
    assert lifecycle.handle(ExecutorUnloaded(), 0.0) == [ExitPod("shutdown")]
    assert lifecycle.state == "stopped"


def test_stop_of_a_warm_pod_exits_at_once() -> None:
    assert warm().handle(StopArrived("idle"), 0.0) == [ExitPod("idle")]


def test_stop_during_a_load_waits_for_it() -> None:
    lifecycle = lifecycle_after(PodStarted(), ControllerJoined(), BIND)
    assert lifecycle.handle(StopArrived("idle"), 0.0) == []
    assert lifecycle.handle(READY, 0.0) == [UnloadExecutor()]
    lifecycle = lifecycle_after(PodStarted(), ControllerJoined(), BIND, StopArrived("idle"))
    error = ImportError()
    assert lifecycle.handle(ExecutorLoadFailed("fn-1", error), 0.0) == [ReportFailed("fn-1", error), ExitPod("idle")]


def test_a_pod_whose_load_failed_takes_nothing_more_but_stops() -> None:
    lifecycle = lifecycle_after(PodStarted(), ControllerJoined(), BIND)
    assert isinstance(lifecycle.handle(ExecutorLoadFailed("fn-1", ImportError()), 0.0)[0], ReportFailed)
    assert isinstance(lifecycle.handle(BIND, 0.0)[0], ReportFailed)
    assert isinstance(lifecycle.handle(TaskArrived(ONE), 0.0)[0], RefuseTask)
    assert lifecycle.handle(StopArrived("idle"), 0.0) == [ExitPod("idle")]


@pytest.mark.parametrize("lifecycle", [warm(), bound(ONE), lifecycle_after(PodStarted(), ControllerJoined(), BIND)])
def test_the_end_of_the_link_ends_the_pod_from_everywhere(lifecycle: PodLifecycle) -> None:
    assert lifecycle.handle(LinkLost("gone"), 0.0) == [ExitPod("gone", at_once=True)]
    assert lifecycle.handle(LinkLost("gone"), 0.0) == []
    lifecycle.check_invariants()


keys = st.sampled_from([ONE, TWO, ("t-1", 2)])
arrivals = st.one_of(
    st.just(BIND),
    st.builds(TaskArrived, keys),
    st.builds(CancelArrived, keys, st.just("cancelled")),
    st.builds(StopArrived, st.just("idle")),
    st.builds(LinkLost, st.just("gone")),
)


@given(st.lists(st.one_of(arrivals, st.just("perform")), max_size=30), st.booleans())
def test_whatever_arrives_the_pod_ends_once_and_leaves_no_task_unanswered(script: list[object], loads: bool) -> None:
    """The test is the agent: it performs what is ordered whenever the script says so."""
    lifecycle, exits = warm(), 0
    due: list[object] = []
    for step in [*script, LinkLost("end"), "perform"]:
        if step == "perform":
            events, due = [consequence(action, loads) for action in due], []
        else:
            events = [step]
        for event in events:
            if event is None:
                continue
            before = lifecycle.state
            actions = lifecycle.handle(event, 0.0)  # type: ignore[arg-type]
            lifecycle.check_invariants()
            assert lifecycle.state == before or lifecycle.state in TRANSITIONS[before]
            exits += sum(isinstance(action, ExitPod) for action in actions)
            if isinstance(event, TaskArrived):
                answered = [a for a in actions if isinstance(a, RunTask | RefuseTask)]
                assert answered or event.key in lifecycle.running
            due += actions
    assert exits == 1 and lifecycle.state == "stopped"


def consequence(action: object, loads: bool) -> Event | None:
    match action:
        case LoadExecutor():
            return READY if loads else ExecutorLoadFailed("fn-1", ImportError())
        case InterruptTask(key=key):
            return TaskEnded(key)
        case UnloadExecutor():
            return ExecutorUnloaded()
    return None


def test_a_refused_task_does_not_end_the_pod() -> None:
    stopping = bound()
    assert stopping.handle(StopArrived("idle"), 0.0) == [UnloadExecutor()]
    assert isinstance(stopping.handle(TaskArrived(ONE), 0.0)[0], RefuseTask)
    assert stopping.handle(TaskEnded(ONE), 0.0) == []  # or the exit hooks would run twice
    failed = lifecycle_after(PodStarted(), ControllerJoined(), BIND, ExecutorLoadFailed("fn-1", ValueError()))
    assert isinstance(failed.handle(TaskArrived(ONE), 0.0)[0], RefuseTask)
    assert failed.handle(TaskEnded(ONE), 0.0) == []
