"""Keys share by cost, whatever they ask for and however much of it waits."""

from __future__ import annotations

from collections import Counter

import pytest
from hypothesis import given
from hypothesis import strategies as st

from deepserve_controller.core.fair_queue import MAX_DEBT_QUANTA, FairQueue

QUANTUM = 100
costs = st.integers(1, 2000)


class Request:
    def __init__(self, key: str, cost: int) -> None:
        self.key, self.cost = key, cost


def backlog(queue: FairQueue[Request], requests: dict[str, list[int]]) -> None:
    for key, given_costs in requests.items():
        for cost in given_costs:
            queue.push(key, Request(key, cost), cost)


@given(st.dictionaries(st.sampled_from("abcde"), st.lists(costs, min_size=1, max_size=30), min_size=2))
def test_keys_that_wait_have_got_as_much_as_each_other(requests: dict[str, list[int]]) -> None:
    """Between two keys that have waited all the time lie at most a quantum and the largest request of each."""
    queue = FairQueue[Request](QUANTUM)
    backlog(queue, requests)
    served: Counter[str] = Counter()
    while len(queue):
        key, request = queue.pop()
        queue.check_invariants()
        assert request.key == key
        served[key] += request.cost
        waiting = [each for each in requests if queue.num_waiting(each)]
        for one in waiting:
            for other in waiting:
                bound = QUANTUM + max(requests[one]) + max(requests[other])
                assert abs(served[one] - served[other]) <= bound
    assert served == {key: sum(given_costs) for key, given_costs in requests.items()}


@given(st.lists(costs, min_size=1, max_size=20))
def test_requests_of_a_key_keep_their_order(given_costs: list[int]) -> None:
    queue = FairQueue[Request](QUANTUM)
    backlog(queue, {"a": given_costs})
    assert [queue.pop()[1].cost for _ in given_costs] == given_costs


@given(
    st.lists(
        st.one_of(
            st.tuples(st.just("push"), st.sampled_from("abc"), costs),
            st.tuples(st.just("pop"), st.just(""), st.just(0)),
            st.tuples(st.just("remove"), st.sampled_from("abc"), st.just(0)),
            st.tuples(st.just("settle"), st.sampled_from("abc"), st.integers(0, 10**7)),
        ),
        max_size=80,
    )
)
def test_any_order_of_events_loses_nothing(steps: list[tuple[str, str, int]]) -> None:
    queue = FairQueue[Request](QUANTUM)
    there: list[Request] = []
    for step, key, amount in steps:
        mine = [request for request in there if request.key == key]
        if step == "push":
            there.append(Request(key, amount))
            queue.push(key, there[-1], amount)
        elif step == "pop" and there:
            there.remove(queue.pop()[1])
        elif step == "remove" and mine:
            assert queue.remove(key, mine[0])
            assert not queue.remove(key, mine[0])
            there.remove(mine[0])
        elif step == "settle":
            queue.settle(key, 100, amount)
        queue.check_invariants()
        assert len(queue) == len(there)
    assert {queue.pop()[1] for _ in list(there)} == set(there)
    with pytest.raises(IndexError):
        queue.pop()


def test_whoever_took_more_than_thought_waits_for_it() -> None:
    queue = FairQueue[Request](QUANTUM)
    backlog(queue, {"greedy": [100] * 20, "modest": [100] * 20})
    assert queue.pop()[0] == "greedy"
    queue.settle("greedy", estimated=100, actual=1100)
    order = [queue.pop()[0] for _ in range(15)]
    assert order[:10] == ["modest"] * 10 and "greedy" in order[10:]


def test_a_debt_is_bounded_and_forgotten_with_the_queue() -> None:
    queue = FairQueue[Request](QUANTUM)
    backlog(queue, {"greedy": [1], "other": [1] * 2 * MAX_DEBT_QUANTA * QUANTUM})
    queue.settle("greedy", estimated=0, actual=1 << 40)
    order = [queue.pop()[0] for _ in range(2 * MAX_DEBT_QUANTA * QUANTUM + 1)]
    assert MAX_DEBT_QUANTA - 1 <= order.index("greedy") / QUANTUM <= MAX_DEBT_QUANTA + 1
    backlog(queue, {"greedy": [1], "other": [1]})
    assert queue.pop()[0] == "greedy"


def test_a_flood_does_not_delay_whoever_comes_now_and_then() -> None:
    queue = FairQueue[Request](QUANTUM)
    backlog(queue, {"flood": [200] * 500})
    for _ in range(10):
        queue.pop()
    queue.push("modest", Request("modest", 200), 200)
    assert "modest" in [queue.pop()[0] for _ in range(4)]


@given(st.lists(st.tuples(st.integers(-2, 2), costs), min_size=1, max_size=20))
def test_urgent_requests_of_a_key_come_before_its_others(asked: list[tuple[int, int]]) -> None:
    queue = FairQueue[tuple[int, int]](QUANTUM)
    for number, (priority, cost) in enumerate(asked):
        queue.push("a", (priority, number), cost, priority)
        queue.push("b", (0, number), cost)
    popped = [queue.pop() for _ in range(2 * len(asked))]
    for key in "ab":
        own = [item for popped_key, item in popped if popped_key == key]
        assert own == sorted(own)
