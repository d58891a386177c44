"""Who is let in, beyond the window too, and with which turn."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from deepserve_controller.core.admission_queue import (
    MAX_DEBT_QUANTA,
    AdmissionQueue,
    Admitted,
    Window,
    equal_share,
    turn_of,
)
from deepserve_controller.core.fair_queue import MAX_DEBT_QUANTA as DEEPEST_DEBT_QUANTA

QUANTUM = 100
WINDOW = Window(8, 12)


def queue_of(**waiting: int) -> AdmissionQueue[str]:
    """So many requests of each key, of a quantum each."""
    queue = AdmissionQueue[str](QUANTUM)
    for key, number in waiting.items():
        for index in range(number):
            queue.push(key, f"{key}{index}", QUANTUM)
    return queue


def keys(admitted: list[Admitted[str]]) -> str:
    return "".join(each.key for each in admitted)


def test_whoever_is_alone_gets_all_and_no_turn_before_itself() -> None:
    queue = queue_of(a=20)
    admitted = queue.admit(WINDOW)
    assert keys(admitted) == "a" * 8
    assert [each.item for each in admitted] == [f"a{index}" for index in range(8)]
    assert {each.turn for each in admitted} == {0}
    queue.leave("a", QUANTUM, QUANTUM)
    assert queue.admit(WINDOW) == [Admitted("a", "a8", 0)]


def test_a_key_below_its_share_is_let_in_beyond_the_window_before_the_others() -> None:
    queue = queue_of(a=20)
    queue.admit(WINDOW)
    queue.push("b", "b0", QUANTUM)
    assert queue.admit(WINDOW) == [Admitted("b", "b0", turn_of(0, 8))]
    queue.push("b", "b1", QUANTUM)
    assert queue.admit(WINDOW) == [Admitted("b", "b1", turn_of(1, 8))]
    assert turn_of(0, 8) < turn_of(1, 8) < turn_of(8, 8) == 0


def test_beyond_the_window_nobody_gets_more_than_his_share() -> None:
    queue = queue_of(a=20)
    queue.admit(WINDOW)
    for index in range(8):
        queue.push("b", f"b{index}", QUANTUM)
    assert keys(queue.admit(WINDOW)) == "b" * 4  # of 8 slots
    assert queue.num_admitted == 12


def test_what_pods_can_hold_is_never_exceeded() -> None:
    queue = queue_of(a=20)
    queue.admit(WINDOW)
    for number in range(10):
        queue.push(f"k{number}", "x", QUANTUM)
    assert len(queue.admit(WINDOW)) == 4 and queue.num_admitted == WINDOW.most
    assert queue.admit(WINDOW) == []


def test_huge_prompts_have_to_wait_for_their_turns() -> None:
    queue = queue_of(a=200)
    queue.admit(WINDOW)
    huge = 10 * MAX_DEBT_QUANTA * QUANTUM
    queue.push("b", "b0", huge)
    assert keys(queue.admit(WINDOW)) == "b"
    queue.push("b", "b1", huge)
    assert queue.admit(WINDOW) == []
    queue.leave("b", huge, huge)
    num_of_a = 0
    while "b" not in keys(queue.admit(WINDOW)):
        num_of_a += 1
        queue.leave("a", QUANTUM, QUANTUM)
    # Its account was down by the most that it may be, and had to come up again.
    assert DEEPEST_DEBT_QUANTA - MAX_DEBT_QUANTA - 1 <= num_of_a <= DEEPEST_DEBT_QUANTA


def test_a_debt_is_paid_off_while_its_key_does_not_wait() -> None:
    queue = queue_of(a=200)
    queue.admit(WINDOW)
    cost = 2 * MAX_DEBT_QUANTA * QUANTUM
    queue.push("b", "b0", cost)
    queue.admit(WINDOW)
    queue.leave("b", cost, cost)
    for _ in range(MAX_DEBT_QUANTA + 2):
        queue.leave("a", QUANTUM, QUANTUM)
        assert keys(queue.admit(WINDOW)) == "a"
    queue.push("b", "b1", cost)
    assert keys(queue.admit(WINDOW)) == "b", "it owes too much still"


@given(st.lists(st.integers(0, 50), max_size=8), st.integers(1, 40))
def test_equal_shares_use_all_slots_that_are_wanted(wanted: list[int], num_slots: int) -> None:
    share = equal_share(wanted, num_slots)
    taken = sum(min(share, each) for each in wanted)
    assert share >= 1
    if taken > num_slots:
        assert share == 1 and len([each for each in wanted if each]) > num_slots
    elif sum(wanted) <= num_slots:
        assert taken == sum(wanted)
    else:
        assert taken > num_slots - len(wanted)  # what cannot be divided by all of them


@given(
    st.lists(
        st.one_of(
            st.tuples(st.just("push"), st.sampled_from("abcd"), st.integers(1, 2000)),
            st.tuples(st.just("admit"), st.just(""), st.integers(0, 12)),
            st.tuples(st.just("leave"), st.sampled_from("abcd"), st.integers(0, 5000)),
            st.tuples(st.just("remove"), st.sampled_from("abcd"), st.just(0)),
        ),
        max_size=100,
    )
)
def test_any_order_of_events_loses_nothing(steps: list[tuple[str, str, int]]) -> None:
    queue = AdmissionQueue[object](QUANTUM)
    waiting: list[tuple[str, object]] = []
    running: list[tuple[str, int]] = []
    costs: dict[int, int] = {}
    for step, key, amount in steps:
        if step == "push":
            item = object()
            costs[id(item)] = amount
            waiting.append((key, item))
            queue.push(key, item, amount)
        elif step == "admit":
            window = Window(amount, amount + 2)
            for each in queue.admit(window):
                waiting.remove((each.key, each.item))
                running.append((each.key, costs[id(each.item)]))
                assert each.turn <= 0
            assert not waiting or len(running) >= window.open
        elif step == "leave" and (mine := [each for each in running if each[0] == key]):
            running.remove(mine[0])
            queue.leave(key, mine[0][1], amount)
        elif step == "remove" and (left := [each for each in waiting if each[0] == key]):
            assert queue.remove(*left[-1])
            waiting.remove(left[-1])
        queue.check_invariants()
        assert (len(queue), queue.num_admitted) == (len(waiting), len(running))
