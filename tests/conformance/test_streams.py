from __future__ import annotations

import asyncio
from pathlib import Path

import pytest

import deepserve
from tests.conformance import user_code
from tests.conformance.conftest import forget, wait_for_file, wait_until
from tests.conformance.user_code import Boom


def test_items_in_order() -> None:
    assert list(user_code.tokens.remote(500)) == [f"t{i}" for i in range(500)]
    assert list(user_code.async_tokens.remote(5)) == list(range(5))
    assert list(user_code.tokens.remote(0)) == []


def test_on_an_event_loop() -> None:
    async def main() -> None:
        assert [item async for item in user_code.tokens.remote.aio(100)] == [f"t{i}" for i in range(100)]
        call = await user_code.async_tokens.spawn.aio(3)
        assert [item async for item in call.stream.aio()] == [0, 1, 2]

    asyncio.run(main())


def test_leaving_the_loop_ends_the_generator(tmp_path: Path) -> None:
    for number in user_code.counts.remote(str(tmp_path), 10_000_000):
        if number == 200:
            break
    assert int(wait_for_file(tmp_path / "ended")) >= 200


def test_a_slow_reader_holds_its_generator_back(tmp_path: Path) -> None:
    items = user_code.counts.remote(str(tmp_path), 10_000_000)
    assert [next(items) for _ in range(10)] == list(range(10))
    came_to = -1

    def stands_still() -> bool:
        nonlocal came_to
        before, came_to = came_to, int(wait_for_file(tmp_path / "count"))
        return before == came_to

    wait_until(stands_still)
    assert came_to <= 10 + 2 * 64
    assert [next(items) for _ in range(200)] == list(range(10, 210))
    items.close()  # type: ignore[attr-defined]


def test_an_exception_after_items() -> None:
    taken = []
    with pytest.raises(Boom, match="after the last item"):
        for number in user_code.breaks_off.remote(3):
            taken.append(number)
    assert taken == [0, 1, 2]


def test_a_spawned_stream_is_left_and_found_again() -> None:
    call = user_code.tokens.spawn(200)
    stream = call.stream()
    assert [next(stream) for _ in range(3)] == ["t0", "t1", "t2"]
    assert [next(call.stream()) for _ in range(2)] == ["t3", "t4"]
    assert list(deepserve.Call.from_id(call.id).stream(from_offset=10))[:2] == ["t10", "t11"]
    assert list(call.stream(from_offset=198, with_offset=True)) == [(198, "t198"), (199, "t199")]


def test_a_stream_that_nobody_reads_gives_its_pod_back(tmp_path: Path) -> None:
    for _ in range(2):
        user_code.counts.remote(str(tmp_path), 10_000_000)
    assert next(iter(user_code.counts.remote(str(tmp_path), 1))) == 0


def test_a_stream_is_no_call_with_one_result() -> None:
    call = user_code.tokens.spawn(2)
    for _ in range(2):  # while it runs, and when it is over
        with pytest.raises(deepserve.DeepServeError, match="is a stream"):
            call.get()
        wait_until(call.done)
    with pytest.raises(deepserve.DeepServeError, match="is a stream"):
        deepserve.Call.from_id(call.id).get(timeout=20)
    assert list(call.stream()) == ["t0", "t1"]


@pytest.mark.parametrize("size_bytes", [300_000, 2_000_000])
def test_large_items(size_bytes: int) -> None:
    items = list(user_code.large_items.remote(6, size_bytes))
    assert [(item[0], len(item)) for item in items] == [(n, size_bytes) for n in range(6)]
    call = user_code.large_items.spawn(4, size_bytes)
    assert next(call.stream())[0] == 0
    assert [item[0] for item in call.stream(from_offset=0)] == [0, 1, 2, 3]
    forget(call)
