from __future__ import annotations

import asyncio
import pickle
import threading
from collections.abc import AsyncIterator, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

import deepserve
from deepserve._current_client import current_client
from tests.integration.functions import chunk_code
from tests.integration.functions.chunk_code import Odd, act
from tests.integration.functions.user_code import square, tokens
from tests.waiting import wait_for


def test_a_group_is_iterated_indexed_and_gathered() -> None:
    group = square.spawn_map(range(300))
    assert len(group) == 300
    assert list(group) == [n * n for n in range(300)]
    assert group[7].get() == 49 and group[-1].get(timeout=60) == 299 * 299 and group[7].done()
    assert sorted(group.results(order_outputs=False)) == list(group)
    assert group.get(timeout=60) == [n * n for n in range(300)]
    assert group.progress == (300, 300, 0) and group.done() and group.status() == "ok"
    with pytest.raises(IndexError):
        group[300]
    with pytest.raises(TypeError):
        group["3"]  # type: ignore[index]


def test_progress_while_one_input_waits(tmp_path: Path) -> None:
    gate = tmp_path / "gate"
    group = act.spawn_map([*range(20), ("wait", str(gate))])
    results = group.results(order_outputs=False)
    assert sorted(next(results) for _ in range(20)) == list(range(20))
    assert group.progress == (20, 21, 0) and group.status() == "pending" and not group[20].done()
    with pytest.raises(TimeoutError):
        group[20].get(timeout=0.01)
    with pytest.raises(TimeoutError):
        group.get(timeout=0.01)
    gate.touch()
    assert len(group.get()) == 21


def test_a_group_that_was_done_before_anybody_asked_gives_its_results() -> None:
    group = square.spawn_map(range(3))
    wait_for(group.done)
    assert group.get() == [0, 1, 4]


def test_failed_inputs_fail_alone_and_keep_their_index() -> None:
    group = act.spawn_map([0, ("raise", "no"), 2])
    outputs = group.get(return_exceptions=True)
    assert outputs[0] == 0 and outputs[2] == 2 and isinstance(outputs[1], Odd)
    assert outputs[1].input_index == 1  # type: ignore[attr-defined]
    assert group.progress == (3, 3, 1)
    with pytest.raises(Odd):
        group.get()
    with pytest.raises(Odd):
        group[1].get()
    assert group[2].get() == 2


def test_cancel_keeps_what_is_there() -> None:
    group = act.spawn_map([1, *[("sleep", 60)] * 50])
    assert next(iter(group)) == 1
    group.cancel()
    outputs = group.get(return_exceptions=True)
    assert outputs[0] == 1 and all(isinstance(output, deepserve.CallCancelled) for output in outputs[1:])
    assert group.status() == "cancelled" and len(outputs) == 51
    assert len(list(group.results(order_outputs=False, return_exceptions=True))) == 51


def test_a_group_is_found_by_its_id() -> None:
    group = square.spawn_map(range(200))
    group_id = group.id
    assert pickle.loads(pickle.dumps(group))[3].get() == 9
    assert deepserve.CallGroup.from_id(group_id).get() == group.get()
    del group
    square.remote(1)  # what is forgotten goes with the next frame
    other = square.spawn_map(range(100))
    other_id = other.id
    del other  # nothing of it was taken: it is kept
    found = deepserve.CallGroup.from_id(other_id)
    assert len(found) == 100 and list(found) == [n * n for n in range(100)]
    with pytest.raises(deepserve.NotFound):
        deepserve.CallGroup.from_id("rq-nobody-1")
    with pytest.raises(TypeError):
        deepserve.CallGroup.from_id(3)  # type: ignore[arg-type]


def test_a_running_group_is_found_by_its_id(tmp_path: Path) -> None:
    gate = tmp_path / "gate"
    group = act.spawn_map([*range(5), ("wait", str(gate))])
    group_id = group.id
    del group
    found = deepserve.CallGroup.from_id(group_id)
    results = iter(found)
    assert [next(results) for _ in range(5)] == list(range(5)) and len(found) == 6
    gate.touch()
    assert len(list(results)) == 1


def test_inputs_are_read_to_their_end_before_it_returns() -> None:
    read: list[int] = []

    def inputs() -> Iterator[int]:
        for number in range(15_000):  # more than may be unfinished
            read.append(number)
            yield number

    group = square.spawn_map(inputs())
    assert len(read) == len(group) == 15_000
    assert sum(group) == sum(n * n for n in range(15_000))

    def broken() -> Iterator[int]:
        yield 1
        raise Odd("no more")

    with pytest.raises(Odd):
        square.spawn_map(broken())
    with pytest.raises(deepserve.UnpicklableArgument) as caught:
        square.spawn_map([1, threading.Lock()])  # type: ignore[list-item]
    assert caught.value.input_index == 1  # type: ignore[attr-defined]
    with pytest.raises(deepserve.DeepServeError, match="generator"):
        tokens.spawn_map([1])
    assert square.spawn_map([]).get() == []


def test_large_results_are_read_once_for_all_and_leave_shared_memory() -> None:
    group = act.spawn_map([("large", 600_000)] * 3)
    calls = [group[index % 3] for index in range(12)]
    with ThreadPoolExecutor(4) as threads:
        assert list(threads.map(lambda call: len(call.get()), calls)) == [600_000] * 12
    del group, calls
    square.remote(1)


def test_the_aio_twins() -> None:
    async def numbers() -> AsyncIterator[int]:
        for number in range(50):
            yield number

    async def main() -> None:
        group = await square.spawn_map.aio(range(100))
        assert [value async for value in group] == [n * n for n in range(100)]
        assert await group.get.aio(timeout=60) == [n * n for n in range(100)]
        assert await group[3].get.aio() == 9
        from_numbers: Any = await square.spawn_map.aio(numbers())
        assert sorted([value async for value in from_numbers.results.aio(order_outputs=False)])[-1] == 49 * 49
        with pytest.raises(deepserve.AsyncUsageError):
            square.spawn_map([1])

    asyncio.run(main())


def test_groups_of_methods() -> None:
    group = chunk_code.Actor().act.spawn_map(range(100))
    assert group.get() == list(range(100))
    assert current_client().inboxes.num_open == 0
