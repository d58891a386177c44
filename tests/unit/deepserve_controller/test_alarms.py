"""Many alarms behind few timers."""

from __future__ import annotations

from random import Random

from deepserve_controller.core.actions import Action, WakeAt
from deepserve_controller.core.alarms import Alarm, Alarms
from deepserve_controller.core.events import ExecutorReady, FunctionDefined, RequestArrived, TaskFinished
from tests.unit.deepserve_controller.harness import OK, Jobs, of_type, spec


def test_they_come_up_in_order_and_cancelled_ones_do_not() -> None:
    out: list[Action] = []
    alarms = Alarms("test", out)
    alarms.set(3.0, "late", "c")
    cancelled = alarms.set(1.0, "early", "a")
    alarms.set(2.0, "middle", "b")
    alarms.cancel(cancelled)
    alarms.cancel(cancelled)
    assert [action.at_s for action in of_type(out, WakeAt)] == [3.0, 1.0]
    assert list(alarms.due(("test", 1.0), 1.0)) == []
    assert out[-1] == WakeAt(2.0, ("test", 2.0))
    assert list(alarms.due(("test", 3.0), 3.0)) == []  # no longer the latest timer
    assert list(alarms.due(("test", 2.0), 3.0)) == [("middle", "b"), ("late", "c")]
    assert len(alarms) == 0
    alarms.check_invariants()


def test_a_timer_that_goes_off_too_early_is_set_again() -> None:
    out: list[Action] = []
    alarms = Alarms("test", out)
    alarms.set(1.0, "it", "a")
    assert list(alarms.due(("test", 1.0), 0.9999)) == []
    assert out == [WakeAt(1.0, ("test", 1.0))] * 2


def test_what_is_done_about_one_may_cancel_the_next() -> None:
    alarms = Alarms("test", [])
    alarms.set(1.0, "first", None)
    second = alarms.set(1.0, "second", None)
    seen = []
    for kind, _ in alarms.due(("test", 1.0), 1.0):
        seen.append(kind)
        alarms.cancel(second)
    assert seen == ["first"]
    alarms.check_invariants()


def test_cancelled_alarms_do_not_pile_up() -> None:
    random, alarms = Random(1), Alarms("test", [])
    kept: list[Alarm] = []
    for number in range(10_000):
        kept.append(alarms.set(random.random() * 300, "limit", number))
        if len(kept) > 10:
            alarms.cancel(kept.pop(random.randrange(10)))
    assert len(alarms) == 10 and len(alarms._heap) <= 2 * 10 + 64 + 1


def test_warm_calls_arm_no_timer() -> None:
    core = Jobs().core
    core.handle(FunctionDefined("fn", spec()), 0.0)
    core.handle(ExecutorReady("pod-1", "fn", 1), 0.0)
    num_timers = 0
    for number in range(1000):
        now_s = number / 100
        for event in (RequestArrived(f"rq-{number}", "link", "fn"), TaskFinished(f"task-{number + 1}", 1, OK, 1.0)):
            num_timers += len(of_type(core.handle(event, now_s), WakeAt))
    assert num_timers == 1
