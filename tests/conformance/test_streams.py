from __future__ import annotations

import asyncio
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

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
        deepserve.Call.from_id(call.id).get(timeout=60)
    assert list(call.stream()) == ["t0", "t1"]
    assert call.get() is None  # it was read to its end
    failed = user_code.breaks_off.spawn(0)
    wait_until(failed.done)
    with pytest.raises(Boom):
        failed.get()


def test_a_call_with_one_result_is_no_stream() -> None:
    call = user_code.square.spawn(3)
    for _ in range(2):  # while it runs, and when it is over
        with pytest.raises(deepserve.DeepServeError, match=r"is no stream: use get\(\)"):
            call.stream()
        wait_until(call.done)
    assert call.get() == 9
    with pytest.raises(deepserve.DeepServeError, match="is no stream"):
        call.stream()

    async def on_a_loop() -> None:
        with pytest.raises(deepserve.DeepServeError, match="is no stream"):
            async for _ in call.stream.aio():
                pass

    asyncio.run(on_a_loop())
    assert call.get() == 9


def test_what_is_found_by_its_id_and_is_no_stream() -> None:
    call_id = (opened := user_code.square.spawn(3)).id
    wait_until(opened.done)
    del opened
    call = deepserve.Call.from_id(call_id)
    with pytest.raises(deepserve.DeepServeError, match="is no stream"):
        list(call.stream())
    assert call.get(timeout=60) == 9
    group = user_code.square.spawn_map([1, 2])
    with pytest.raises(deepserve.DeepServeError, match=r"is a group: .*CallGroup\.from_id"):
        list(deepserve.Call.from_id(group.id).stream())
    assert group.get(timeout=60) == [1, 4]
    group_id = (unread := user_code.square.spawn_map([1, 2])).id
    del unread
    found = deepserve.Call.from_id(group_id)  # nothing here knows of it any more
    with pytest.raises(deepserve.DeepServeError, match="is a group"):
        list(found.stream())
    with pytest.raises(deepserve.DeepServeError, match="is a group"):
        found.get(timeout=60)


@pytest.mark.parametrize("size_bytes", [300_000, 2_000_000])
def test_large_items(size_bytes: int) -> None:
    items = list(user_code.large_items.remote(6, size_bytes))
    assert [(item[0], len(item)) for item in items] == [(n, size_bytes) for n in range(6)]
    call = user_code.large_items.spawn(4, size_bytes)
    assert next(call.stream())[0] == 0
    assert [item[0] for item in call.stream(from_offset=0)] == [0, 1, 2, 3]
    forget(call)


# --- readers ------------------------------------------------------------------------------------------------


def test_readers_of_one_call_have_each_a_place_of_their_own() -> None:
    call = user_code.tokens.spawn(500)
    first, second = call.stream(), call.stream(from_offset=100)
    assert [next(first) for _ in range(10)] == [f"t{n}" for n in range(10)]
    assert [next(second) for _ in range(10)] == [f"t{n}" for n in range(100, 110)]
    assert len(list(deepserve.Call.from_id(call.id).stream(from_offset=0))) == 500
    assert (len(list(first)), len(list(second))) == (490, 390)


def test_what_was_read_long_ago_is_gone() -> None:
    call = user_code.large_items.spawn(60, 500_000)
    stream = call.stream()
    assert [next(stream)[0] for _ in range(45)] == list(range(45))
    with pytest.raises(deepserve.ItemsGone, match="items 0 to"):
        list(call.stream(from_offset=0))
    assert [item[0] for item in stream] == list(range(45, 60))
    forget(call)


# --- attempts -----------------------------------------------------------------------------------------------


def noting(items: Iterator[int], folder: Path, count: int) -> Iterator[int]:
    """The items; notes in `taken` that so many are here."""
    for item in items:
        if item == count - 1:
            (folder / "taken").touch()
        yield item


@pytest.mark.parametrize("how", ["raises", "killed"])
@pytest.mark.parametrize("function", [user_code.resumes, user_code.verifies], ids=["resume", "verify"])
def test_another_attempt_gives_the_rest_once(function: Any, how: str, tmp_path: Path) -> None:
    assert list(noting(function.remote(str(tmp_path), 200, 90, how), tmp_path, 90)) == list(range(200))


@pytest.mark.parametrize("how", ["raises", "killed"])
def test_without_replay_a_stream_that_has_begun_is_interrupted(how: str, tmp_path: Path) -> None:
    (tmp_path / "early").mkdir()
    assert list(user_code.plain.remote(str(tmp_path / "early"), 5, 0, how)) == [0, 1, 2, 3, 4]
    seen = []
    with pytest.raises(deepserve.StreamInterrupted) as caught:
        for item in noting(user_code.plain.remote(str(tmp_path), 20, 10, how), tmp_path, 10):
            seen.append(item)
    assert seen == list(range(10)) and caught.value.num_delivered == 10
    assert isinstance(caught.value.__cause__, deepserve.PodLost if how == "killed" else Boom)


def test_a_replay_with_other_items_is_refused(tmp_path: Path) -> None:
    with pytest.raises(deepserve.StreamReplayMismatch):
        list(user_code.differs.remote(str(tmp_path)))


def test_the_clock_of_silence() -> None:
    seen = []
    with pytest.raises(deepserve.FunctionTimeout) as caught:
        for item in user_code.falls_silent.remote(3):
            seen.append(item)
    assert seen == [0, 1, 2] and caught.value.clock == "idle"


def test_a_slow_reader_is_not_the_generators_silence(tmp_path: Path) -> None:
    stream = user_code.falls_silent.remote(1000)
    assert next(stream) == 0
    time.sleep(2.0)  # twice its clock, with the generator waiting for room
    assert [next(stream) for _ in range(999)] == list(range(1, 1000))
    stream.close()  # type: ignore[attr-defined]
