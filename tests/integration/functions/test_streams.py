"""Streams over real pods: several readers, other attempts, and every way to leave."""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

import deepserve
from deepserve.errors import (
    CallCancelled,
    FunctionTimeout,
    InvalidOption,
    ItemsGone,
    PodLost,
    StreamInterrupted,
    StreamReplayMismatch,
)
from tests.integration.functions import stream_code as code
from tests.integration.functions.conftest import wait_until

MIB = 1 << 20


def state_of(call: deepserve.Call[Any]) -> str:
    return state_of_id(call.id)


def state_of_id(request_id: str) -> str:
    [record] = [record for record in deepserve.recent_requests() if record["request_id"] == request_id]
    return str(record["state"])


def last_state(label: str) -> str:
    return str([record["state"] for record in deepserve.recent_requests() if record["label"] == label][-1])


def read(call: deepserve.Call[Any], **options: Any) -> list[Any]:
    return list(call.stream(**options))


# --- readers ----------------------------------------------------------------------------------------------


def test_readers_of_one_call_have_each_a_place_of_their_own() -> None:
    call = code.numbers.spawn(500)
    first, second = call.stream(), call.stream(from_offset=100)
    assert [next(first) for _ in range(10)] == list(range(10))
    assert [next(second) for _ in range(10)] == list(range(100, 110))
    assert read(deepserve.Call.from_id(call.id), from_offset=0) == list(range(500))
    assert list(first) == list(range(10, 500))
    assert list(second) == list(range(110, 500))
    assert (call.done(), call.status()) == (True, "ok")
    assert read(call, from_offset=495, with_offset=True) == [(n, n) for n in range(495, 500)]
    assert read(call, from_offset=500) == read(call, from_offset=700) == []


def test_two_threads_read_the_same_stream() -> None:
    call = code.numbers.spawn(3000)
    seen: dict[int, list[Any]] = {}
    threads = [threading.Thread(target=lambda n=n: seen.update({n: read(call, from_offset=n)})) for n in range(2)]  # type: ignore[misc]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    assert seen == {0: list(range(3000)), 1: list(range(1, 3000))}


def test_what_was_read_long_ago_is_gone() -> None:
    call = code.numbers.spawn(60, MIB // 2)
    stream = call.stream()
    assert [item[0] for item in (next(stream) for _ in range(40))] == list(range(40))
    with pytest.raises(ItemsGone, match="items 0 to"):
        read(call, from_offset=0)
    assert [item[0] for item in stream] == list(range(40, 60))
    del call, stream
    assert list(code.numbers.remote(1)) == [0]  # with it goes the word that nobody wants the others any more


def test_a_slow_reader_slows_the_producer_and_large_items_pass_one_by_one(tmp_path: Path) -> None:
    made = tmp_path / "made"
    stream = iter(code.counted.remote(str(made), 100, MIB))
    next(stream)
    wait_until(lambda: int(made.read_text() or 0) >= 5)
    time.sleep(0.2)  # would it go on, it would by now
    assert int(made.read_text() or 0) <= 7
    assert sum(1 for _ in stream) == 99
    sizes = [len(item) for item in code.counted.remote(str(made), 4, 6 * MIB)]
    assert sizes == [6 * MIB] * 4


def test_items_that_gather_come_without_a_later_one_to_push_them(tmp_path: Path) -> None:
    gate = tmp_path / "gate"
    stream = iter(code.in_a_burst_then_late.remote(str(gate)))
    assert [next(stream) for _ in range(10)] == list(range(10))
    gate.touch()
    assert list(stream) == [10]


def test_methods_of_a_class_stream_side_by_side() -> None:
    both = code.Both()
    calls = [both.count.spawn(300), both.count_async.spawn(300), both.count.spawn(300)]
    streams = [call.stream() for call in calls]
    for n in range(300):
        assert [next(stream) for stream in streams] == [n, n, n]
    assert [list(stream) for stream in streams] == [[], [], []]
    assert both.pid.remote() == both.pid.remote()
    with pytest.raises(deepserve.DeepServeError, match="generator"):
        list(both.count.map([1, 2]))


def test_leaving_one_of_several_streams_of_a_pod_leaves_the_others(tmp_path: Path) -> None:
    both = code.Both()
    first = both.tells_its_end.remote(str(tmp_path / "first"))
    second = both.tells_its_end.remote(str(tmp_path / "second"))  # on a thread that no signal reaches
    third = both.count.remote(1000)
    assert (next(first), next(second), next(third)) == (0, 0, 0)
    for stream, name in ((second, "second"), (first, "first")):
        stream.close()  # type: ignore[attr-defined]
        wait_until((tmp_path / name).exists)
    assert list(third) == list(range(1, 1000))


def test_streams_inside_pods_and_items_that_cannot_travel() -> None:
    assert list(code.reads_others.remote(300)) == [2 * number for number in range(300)]
    seen = []
    with pytest.raises(deepserve.UnpicklableResult, match="generator"):
        for item in code.cannot_travel.remote(70):
            seen.append(item)
    assert seen == list(range(70))


def test_the_twins() -> None:
    async def main() -> None:
        call = await code.numbers.spawn.aio(200)
        assert [item async for item in call.stream.aio(from_offset=150)] == list(range(150, 200))
        first, second = call.stream.aio(from_offset=0), call.stream.aio(from_offset=0, with_offset=True)
        for n in range(100):
            assert (await anext(first), await anext(second)) == (n, (n, n))
        await first.aclose()  # type: ignore[attr-defined]
        assert len([item async for item in second]) == 100

    asyncio.run(main())
    trio = pytest.importorskip("trio")
    trio.run(main)


# --- attempts -----------------------------------------------------------------------------------------------

Stream = Callable[..., Iterator[int]]


def noting(items: Iterator[int], mark: Path, count: int) -> Iterator[int]:
    """The items; notes beside `mark` that so many are here."""
    for item in items:
        if item == count - 1:
            mark.with_suffix(".taken").touch()
        yield item


@pytest.mark.parametrize("how", ["raises", "killed"])
@pytest.mark.parametrize("function", [code.resumes, code.verifies, code.resumes_async])
def test_another_attempt_gives_the_rest_once(function: Any, how: str, tmp_path: Path) -> None:
    mark = tmp_path / "mark"
    assert list(noting(function.remote(str(mark), 200, 90, how), mark, 90)) == list(range(200))


@pytest.mark.parametrize("how", ["raises", "killed"])
def test_without_replay_a_stream_is_tried_again_only_before_its_first_item(how: str, tmp_path: Path) -> None:
    assert list(code.plain.remote(str(tmp_path / "early"), 5, 0, how)) == [0, 1, 2, 3, 4]
    seen = []
    with pytest.raises(StreamInterrupted) as caught:
        for item in noting(code.plain.remote(str(tmp_path / "late"), 20, 10, how), tmp_path / "late", 10):
            seen.append(item)
    assert seen == list(range(10)) and caught.value.num_delivered == 10
    assert isinstance(caught.value.__cause__, PodLost if how == "killed" else code.Boom)


def test_a_replay_that_makes_other_items_is_refused(tmp_path: Path) -> None:
    for function, arguments in (
        (code.verifies, (str(tmp_path / "odd"), 20, 10, "raises", True)),
        (code.ends_earlier, (str(tmp_path / "short"),)),
    ):
        seen = []
        with pytest.raises(StreamReplayMismatch, match="10"):
            for item in function.remote(*arguments):  # type: ignore[operator]
                seen.append(item)
        assert seen == list(range(10))


def test_a_reader_that_comes_later_sees_both_attempts_as_one(tmp_path: Path) -> None:
    call = code.resumes.spawn(str(tmp_path / "mark"), 300, 30, "killed")
    wait_until((tmp_path / "mark").exists)
    (tmp_path / "mark.taken").touch()  # whatever has come
    assert read(call, from_offset=20) == list(range(20, 300))
    assert call.timings is not None and (call.timings.attempts, call.timings.pod_losses) == (2, 1)


# --- the end ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("busy", [False, True])
@pytest.mark.parametrize("way", ["close", "break", "drop"])
def test_leaving_a_stream_closes_the_generator(way: str, busy: bool, tmp_path: Path) -> None:
    path = tmp_path / "end"
    stream: Any = code.tells_its_end.remote(str(path), busy)
    if way == "break":
        for _ in stream:
            break
    else:
        next(stream)
        if way == "close":
            stream.close()
    del stream
    wait_until((tmp_path / "end.finally").exists)
    assert path.read_text() in ("GeneratorExit", "StreamClosed")
    wait_until(lambda: last_state("streams/tells_its_end") == "cancelled")


def test_leaving_an_asynchronous_generator_closes_it_too(tmp_path: Path) -> None:
    path = tmp_path / "end"
    stream = iter(code.tells_its_end_async.remote(str(path)))
    next(stream)
    del stream
    wait_until((tmp_path / "end.finally").exists)
    assert path.read_text() == "GeneratorExit"


def test_cancelling_a_spawned_stream_ends_it_behind_its_items(tmp_path: Path) -> None:
    call = code.tells_its_end.spawn(str(tmp_path / "end"), False)
    stream = call.stream()
    assert next(stream) == 0
    call.cancel()
    seen = []
    with pytest.raises(CallCancelled):
        for item in stream:
            seen.append(item)
    assert seen == list(range(1, len(seen) + 1))
    assert call.status() == "cancelled" and (tmp_path / "end.finally").exists()


def test_a_silent_stream_runs_out_of_time_by_its_idle_clock() -> None:
    seen = []
    with pytest.raises(FunctionTimeout, match="without an item") as caught:
        for item in code.falls_silent.remote(3):
            seen.append(item)
    assert seen == [0, 1, 2] and caught.value.clock == "idle"


def test_a_slow_reader_does_not_run_out_of_the_producers_time() -> None:
    stream = iter(code.falls_silent.remote(1000))
    assert next(stream) == 0
    time.sleep(2.0)  # twice the idle timeout, with the producer waiting for credit
    assert [next(stream) for _ in range(999)] == list(range(1, 1000))
    stream.close()  # type: ignore[attr-defined]


def test_options_of_streams_are_checked_where_they_are_given() -> None:
    def plain() -> None: ...

    with pytest.raises(InvalidOption, match="replay='again'"):
        code.numbers.with_options(replay="again")  # type: ignore[arg-type]
    for option in ({"replay": "resume"}, {"idle_timeout": 1.0}):
        with pytest.raises(InvalidOption, match=f"{next(iter(option))}=.*generator"):
            code.app.function(**option)(plain)  # type: ignore[arg-type]
    with pytest.raises(InvalidOption, match="idle_timeout=0 "):
        code.numbers.with_options(idle_timeout=0)
    assert code.numbers.with_options(idle_timeout=None, replay=None).spec.replay == ""
    assert deepserve.resume_offset() == 0
