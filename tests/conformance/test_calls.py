from __future__ import annotations

import asyncio
import os
import threading
from pathlib import Path

import pytest

import deepserve
from tests.conformance import user_code
from tests.conformance.conftest import wait_for_file, wait_until
from tests.conformance.user_code import square


def test_a_plain_call_runs_here_and_a_remote_one_elsewhere() -> None:
    assert square(3) == square.remote(3) == 9
    assert user_code.where()[0] == os.getpid()
    pid, context = user_code.where.remote()
    assert pid != os.getpid()
    assert context.request_id.startswith("rq-") and context.pod_id.startswith("pod-") and context.attempt == 1


def test_arguments_by_position_and_by_name() -> None:
    assert user_code.join.remote("a", "b", "c", between="-", d="e") == "a-b-c-d-e"
    with pytest.raises(TypeError, match="unexpected keyword argument 'y'"):
        square.remote(y=3)  # type: ignore[call-arg]


VALUES = [None, 1 << 90, "ü\ud800", b"\0\xff", {"a": [1, (2, {3})]}, float("inf"), ..., Path("/x")]


@pytest.mark.parametrize("value", VALUES, ids=range(len(VALUES)))
def test_values_come_back_as_they_went(value: object) -> None:
    assert user_code.echo.remote(value) == value


def test_spawn_and_its_call(tmp_path: Path) -> None:
    call = user_code.waits_for_file.spawn(str(tmp_path), "go", 16)
    wait_for_file(tmp_path / "began-go")
    assert (call.done(), call.status(), call.timings) == (False, "pending", None)
    with pytest.raises(TimeoutError, match="it goes on"):
        call.get(timeout=0.05)
    (tmp_path / "go").touch()
    assert call.get(timeout=60) == call.get() == 16
    assert (call.done(), call.status()) == (True, "ok")
    assert call.timings is not None and call.timings.pod_id and call.timings.attempts == 1
    assert deepserve.Call.from_id(call.id).get() == 16
    call.cancel()  # moot
    assert call.status() == "ok"


def test_a_call_that_nobody_asked_is_found_by_its_id() -> None:
    call_id = square.spawn(5).id
    assert deepserve.Call.from_id(call_id).get(timeout=60) == 25


def test_aio_twins() -> None:
    async def main() -> None:
        assert await square.remote.aio(3) == 9
        assert await asyncio.gather(*(square.remote.aio(n) for n in range(30))) == [n * n for n in range(30)]
        assert await (await user_code.later.spawn.aio(3)).get.aio(timeout=60) == 4

    asyncio.run(main())
    assert user_code.later.remote(1) == 2


def test_a_blocking_verb_on_an_event_loop_names_its_twin() -> None:
    async def main() -> None:
        with pytest.raises(deepserve.AsyncUsageError, match="aio"):
            square.remote(3)

    asyncio.run(main())


def test_threads_share_the_engine() -> None:
    results: list[int] = []
    threads = [threading.Thread(target=lambda n=n: results.append(square.remote(n))) for n in range(8)]  # type: ignore[misc]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(results) == [n * n for n in range(8)]


def test_many_pending_calls() -> None:
    calls = [square.spawn(n) for n in range(1000)]
    assert [call.get(timeout=60) for call in calls] == [n * n for n in range(1000)]


def test_code_without_a_name_travels_by_value() -> None:
    offset = 10

    class Local(Exception):
        pass

    def fails() -> None:
        raise Local("x")

    assert deepserve.function(lambda x: x + offset).remote(5) == 15
    with pytest.raises(Local):
        deepserve.function(fails).remote()


def test_what_it_prints_is_printed_here(capsys: pytest.CaptureFixture[str]) -> None:
    user_code.prints.remote("from a pod")
    out, err = "", ""

    def has_come() -> bool:
        nonlocal out, err
        more = capsys.readouterr()
        out, err = out + more.out, err + more.err
        return "from a pod\n" in out and "FROM A POD\n" in err

    wait_until(has_come)


def test_one_pod_runs_several_inputs_where_it_is_allowed(tmp_path: Path) -> None:
    names = ["a", "b", "c"]
    calls = [user_code.meets.with_options(max_pods=1).spawn(str(tmp_path), name, names) for name in names]
    assert len({call.get(timeout=60) for call in calls}) == 1


def test_options_make_other_pods() -> None:
    pid, _ = user_code.where.remote()
    other, _ = user_code.where.with_options(memory=2048, timeout=5).remote()
    assert other != pid


def test_batches_in_which_one_bad_item_fails_alone() -> None:
    calls = [user_code.shout.spawn(text) for text in ("a", "bad", "worse", "d")]
    assert (calls[0].get(timeout=60), calls[3].get(timeout=60)) == ("A", "D")
    with pytest.raises(user_code.Boom, match="bad in the batch"):
        calls[1].get(timeout=60)
    with pytest.raises(KeyError, match="worse"):
        calls[2].get(timeout=60)


def test_calls_as_arguments_are_waited_for_by_the_engine(tmp_path: Path) -> None:
    first = user_code.waits_for_file.spawn(str(tmp_path), "go", 3)
    second = square.spawn(first.arg)
    third = square.spawn(second.arg)
    assert third.status() == "pending"
    (tmp_path / "go").touch()
    assert third.get(timeout=60) == 81
    with pytest.raises(user_code.Boom, match="so it is"):
        square.remote(user_code.raises.spawn("so it is"))  # type: ignore[arg-type]
