from __future__ import annotations

import asyncio
import os
import queue
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest

import deepserve
from deepserve._current_client import current_client
from tests.integration.functions import user_code
from tests.integration.functions.user_code import Boom, Counter, Ranker, app, square
from tests.waiting import wait_for


def test_remote_runs_elsewhere() -> None:
    assert square.remote(3) == 9
    pid, context = user_code.where.remote()
    assert pid != os.getpid()
    assert context.request_id.startswith("rq-") and context.pod_id.startswith("pod-") and context.attempt == 1


def test_spawn_and_its_call() -> None:
    call = square.spawn(4)
    assert call.get(timeout=60) == call.get() == 16
    assert (call.done(), call.status()) == (True, "ok")
    assert call.timings is not None and call.timings.pod_id and call.timings.attempts == 1
    assert deepserve.Call.from_id(call.id).get() == 16


def test_all_holders_of_a_call_take_its_one_large_result() -> None:
    call = user_code.large.spawn(1_000_000)
    with ThreadPoolExecutor(4) as threads:
        assert list(threads.map(len, threads.map(lambda call: call.get(timeout=60), [call] * 4))) == [1_000_000] * 4
    assert deepserve.Call.from_id(call.id).get() == call.get()
    del call
    square.remote(1)  # what is forgotten goes with the next frame


def test_calls_as_arguments_of_the_aio_twins() -> None:
    async def main() -> None:
        assert await square.remote.aio((await square.spawn.aio(2)).arg) == 16
        assert await (await square.spawn.aio(square.spawn(2).arg)).get.aio() == 16
        assert [n async for n in square.map.aio([square.spawn(2), 3])] == [16, 9]
        assert len([t async for t in user_code.tokens.remote.aio(square.spawn(2).arg)]) == 4

    asyncio.run(main())


def test_a_call_is_found_by_its_id_after_its_object_is_gone() -> None:
    call_id = square.spawn(5).id
    assert deepserve.Call.from_id(call_id).get(timeout=60) == 25


def test_map_starmap_for_each() -> None:
    assert list(square.map(range(300))) == [n * n for n in range(300)]
    assert list(square.starmap([(1,), (2,)])) == [1, 4]
    assert sorted(square.map(range(10), order_outputs=False)) == [n * n for n in range(10)]
    square.for_each(range(10))
    for output in square.map(range(10_000)):
        if output == 100:
            break
    assert square.remote(2) == 4


def test_inputs_that_wait_for_outputs() -> None:
    """A crawl: what comes out is put in again."""
    found: queue.Queue[int] = queue.Queue()
    found.put(2)
    crawl = square.map(iter(found.get, 0))
    assert next(crawl) == 4
    found.put(4)
    assert next(crawl) == 16
    found.put(0)
    assert list(crawl) == []

    def broken() -> Iterator[int]:
        yield 3
        raise Boom("no more inputs")

    outputs = square.map(broken(), order_outputs=False)
    with pytest.raises(Boom, match="no more inputs"):
        list(outputs)
    left = square.map(iter(found.get, 0))
    found.put(1)
    assert next(left) == 1
    left.close()  # type: ignore[attr-defined]
    found.put(0)
    assert sums_children_of_a_generator.remote(4) == 14


@app.function
def sums_children_of_a_generator(n: int) -> int:
    return sum(square.map(i for i in range(n)))


def test_a_stream_that_nobody_reads_gives_its_pod_back() -> None:
    for _ in range(2):
        user_code.endless.remote()
    unread = user_code.endless.remote()
    unread.close()  # type: ignore[attr-defined]
    assert list(zip(range(3), user_code.endless.remote(), strict=False))[-1] == (2, 2)


def test_a_stream_lives_as_long_as_its_reader() -> None:
    assert sum(1 for _ in user_code.tokens.spawn(300).stream()) == 300


def test_what_came_but_was_not_read_can_be_asked_for_again() -> None:
    call = user_code.tokens.spawn(200)
    time.sleep(0.3)  # all that there is room for has come
    assert next(call.stream()) == "t0"
    assert list(call.stream(from_offset=2)) == [f"t{i}" for i in range(2, 200)]


def test_readers_that_skip_or_leave_use_up_no_credit() -> None:
    skipping = user_code.tokens.spawn(2000)
    assert next(skipping.stream(from_offset=1500)) == "t1500"
    skipping.cancel()
    call = user_code.tokens.spawn(300)
    assert [next(call.stream()) for _ in range(300)] == [f"t{i}" for i in range(300)]


def test_large_items_can_be_read_again_and_leave_shared_memory_with_their_call() -> None:
    call = user_code.large_items.spawn(5)
    first = call.stream()
    assert next(first)[0] == 0
    assert [item[0] for item in call.stream(from_offset=0)] == [0, 1, 2, 3, 4]
    assert [(offset, item[0]) for offset, item in call.stream(from_offset=3, with_offset=True)] == [(3, 3), (4, 4)]
    del call, first
    square.remote(1)


def test_generators_stream() -> None:
    assert list(user_code.tokens.remote(500)) == [f"t{i}" for i in range(500)]
    assert list(user_code.async_tokens.remote(5)) == list(range(5))
    for item in user_code.tokens.remote(10_000_000):
        if item == "t200":
            break
    taken = []
    with pytest.raises(Boom, match="after the last item"):
        for number in user_code.breaks_off.remote(3):
            taken.append(number)
    assert taken == [0, 1, 2]


def test_a_spawned_stream_is_left_and_found_again() -> None:
    call = user_code.tokens.spawn(200)
    stream = call.stream()
    assert [next(stream) for _ in range(3)] == ["t0", "t1", "t2"]
    assert list(deepserve.Call.from_id(call.id).stream(from_offset=10))[:2] == ["t10", "t11"]
    assert list(call.stream(from_offset=198, with_offset=True)) == [(198, "t198"), (199, "t199")]


def test_async_functions_and_twins() -> None:
    async def main() -> None:
        assert await user_code.later.remote.aio(1) == 2
        assert await asyncio.gather(*(square.remote.aio(n) for n in range(30))) == [n * n for n in range(30)]
        assert [n async for n in square.map.aio(range(30))] == [n * n for n in range(30)]
        assert [item async for item in user_code.tokens.remote.aio(3)] == ["t0", "t1", "t2"]
        assert await (await square.spawn.aio(3)).get.aio(timeout=60) == 9

    assert user_code.later.remote(1) == 2
    asyncio.run(main())


def test_calls_inside_pods() -> None:
    assert user_code.fib.remote(7) == 13
    assert user_code.async_fib.remote(5) == 5
    assert user_code.sums_children.remote(20) == sum(n * n for n in range(20))


def test_threads_share_the_link() -> None:
    results: list[int] = []
    threads = [threading.Thread(target=lambda n=n: results.append(square.remote(n))) for n in range(8)]  # type: ignore[misc]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(results) == [n * n for n in range(8)]


def test_closures_and_lambdas() -> None:
    offset = 10

    @deepserve.function
    def local_fib(n: int) -> int:
        return n if n < 2 else local_fib.remote(n - 1) + local_fib.remote(n - 2)

    class Local(Exception):
        pass

    def raises() -> None:
        raise Local("x")

    assert deepserve.function(lambda x: x + offset).remote(5) == 15
    assert local_fib.remote(4) == 3
    with pytest.raises(Local):
        deepserve.function(raises).remote()


def test_classes() -> None:
    assert Ranker(model="large").score.remote("q") == ("large", 5, 1, "q")
    assert Ranker().score.remote("q") == ("small", 5, 1, "q")
    assert Ranker().score("q") == ("small", 5, 1, "q")
    assert Ranker(model="x").score_later.remote("abc") == 3
    assert list(Ranker().words.remote("a b c")) == ["a", "b", "c"]
    assert list(Ranker().score_later.map(["a", "bb"])) == [5, 10]
    counter = Counter(10, step=5)
    assert [counter.next.remote(), counter.next.remote()] == [15, 20]
    assert counter.next() == 15
    with pytest.raises(deepserve.StartupFailed, match="no weights") as caught:
        user_code.Broken().run.remote()
    assert isinstance(caught.value.__cause__, Boom)
    with pytest.raises(TypeError, match="modell"):
        Ranker(modell="x")  # type: ignore[call-arg]


def test_retries_and_their_exceptions() -> None:
    assert user_code.flaky.remote("twice") == 3
    with pytest.raises(ConnectionError, match="attempt 4"):
        user_code.flaky.remote("always")
    with pytest.raises(ValueError, match="attempt 1"):
        user_code.flaky.remote("value")


def test_large_values_and_refs() -> None:
    array = np.zeros(1_000_000)
    assert user_code.fills.remote(array) == 1_000_000
    assert not array.any()
    assert (user_code.echo.remote(array) == array).all()
    ref = deepserve.put(array)
    assert user_code.fills.remote(ref) == 1_000_000
    assert user_code.fills.remote(ref) == 1_000_000
    assert not ref.get().any()
    assert user_code.refs_inside.remote([ref, ref]) == [1_000_000, 1_000_000]
    assert user_code.echo.remote([ref]) == [ref]
    ref.delete()
    ref.delete()
    short = deepserve.put("x", ttl=60)
    assert short.get() == "x"
    with pytest.raises(deepserve.SerializationError):
        ref.get()


def test_a_call_as_an_argument() -> None:
    assert square.remote(square.spawn(3).arg) == 81


def test_cancel() -> None:
    call = user_code.sleeps_long.spawn(30)
    time.sleep(0.3)
    call.cancel()
    with pytest.raises(deepserve.CallCancelled):
        call.get(timeout=60)
    with pytest.raises(deepserve.CallCancelled):
        forced = user_code.sleeps_long.spawn(30)
        time.sleep(0.3)
        forced.cancel(force=True)
        forced.get(timeout=60)


def test_options_make_other_pods() -> None:
    quick = user_code.sleeps_long.with_options(timeout=0.2)
    with pytest.raises(deepserve.FunctionTimeout):
        quick.remote(5)
    assert user_code.sleeps_long.remote(0.01) == "slept"


def test_min_pods_run_ahead_of_calls() -> None:
    @app.function(min_pods=2, max_pods=2)
    def ahead() -> int:
        return os.getpid()

    ahead.remote()
    wait_for(lambda: sum("ahead" in str(pod) for pod in current_client().query("status")["pods"]) == 2)
