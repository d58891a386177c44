"""Calls as arguments of other calls, over real pods: the controller waits, and passes the results on."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest

import deepserve
from deepserve.errors import CallCancelled, Refused
from tests.integration.functions import dependency_code as code
from tests.integration.functions.conftest import wait_until


def state_of(call: deepserve.Call[object]) -> str:
    [record] = [record for record in deepserve.recent_requests() if record["request_id"] == call.id]
    return str(record["state"])


def test_results_go_to_the_calls_that_want_them() -> None:
    one = code.add.spawn(1)
    three = code.add.spawn(one.arg, y=2)
    assert code.add.remote(three.arg, three.arg) == 6
    assert list(code.add.map([one.arg, 5, three.arg], kwargs={"y": one.arg})) == [2, 6, 4]
    assert list(code.add.starmap([(one.arg, three.arg)])) == [4]


def test_spawn_returns_while_the_dependency_runs_and_the_first_call_may_be_forgotten(tmp_path: Path) -> None:
    gate = tmp_path / "gate"
    last = code.add.spawn(code.waits_for.spawn(str(gate), 20).arg, y=3)
    assert not last.done() and state_of(last) == "waiting"
    assert code.add.remote(1, 1) == 2  # what waits holds no slot
    gate.touch()
    assert last.get() == 23
    assert last.timings is not None and last.timings.attempts == 1


def test_large_results_travel_by_segment_and_can_be_had_again(tmp_path: Path) -> None:
    data = code.large.spawn(3_000_000)
    assert code.size.remote(data.arg, data) == (3_000_000, "bytes")
    assert code.size.remote(data.arg, [data]) == (3_000_000, "list")
    assert code.fails_once.remote(str(tmp_path / "mark"), data.arg) == 3_000_000
    assert len(data.get()) == 3_000_000
    assert code.size.remote(data.arg) == (3_000_000, "NoneType")
    del data
    assert code.add.remote(1) == 1  # with it goes the word that nobody wants them any more


def test_a_failed_dependency_ends_what_waits_for_it(tmp_path: Path) -> None:
    failed = code.fails.spawn("no luck")
    waiting = code.runs.spawn(str(tmp_path / "ran"), failed.arg)
    behind = code.runs.spawn(str(tmp_path / "ran"), waiting.arg)
    for call, dependency in ((waiting, failed), (behind, waiting)):
        with pytest.raises(code.Boom, match="no luck") as caught:
            call.get(timeout=60)
        [note] = [note for note in caught.value.__notes__ if dependency.id in note]
        assert call.id in note
    with pytest.raises(code.Boom, match="no luck"):  # it had failed before
        code.runs.remote(str(tmp_path / "ran"), failed.arg)
    outputs = list(code.add.map([1, failed.arg, 3], return_exceptions=True))
    assert outputs[0] == 1 and outputs[2] == 3 and isinstance(outputs[1], code.Boom)
    assert not (tmp_path / "ran").exists()


def test_cancelling_either_end(tmp_path: Path) -> None:
    gate, ran = tmp_path / "gate", tmp_path / "ran"
    held = code.waits_for.spawn(str(gate), 1)
    dropped = code.runs.spawn(str(ran), held.arg)
    other = code.runs.spawn(str(ran), held.arg)
    dropped.cancel()
    with pytest.raises(CallCancelled):
        dropped.get(timeout=60)
    assert not held.done() and not other.done()
    held.cancel()
    with pytest.raises(CallCancelled, match=held.id):
        other.get(timeout=60)
    with pytest.raises(CallCancelled):
        held.get(timeout=60)
    assert not ran.exists()


def test_bad_dependencies_have_clear_errors() -> None:
    with pytest.raises(Refused, match="rq-nobody-1"):
        code.add.remote(deepserve.Call.from_id("rq-nobody-1").arg)
    stream = code.numbers.spawn(3)
    with pytest.raises(Refused, match="stream"):
        code.add.remote(stream.arg)
    assert list(stream.stream()) == [0, 1, 2]


def test_calls_inside_a_pod_may_depend_on_each_other() -> None:
    assert code.adds_by_calls.remote(5) == 5


def test_the_twins_wait_no_more_than_the_others(tmp_path: Path) -> None:
    gate = tmp_path / "gate"

    async def main() -> int:
        held = await code.waits_for.spawn.aio(str(gate), 4)
        call = await code.add.spawn.aio(held.arg, y=1)
        assert not held.done()
        gate.touch()
        total = await code.add.remote.aio(call.arg, y=held.arg)
        assert [n async for n in code.add.map.aio([call.arg])] == [5]
        return total

    assert asyncio.run(main()) == 9


def test_a_script_that_ends_leaves_nothing_waiting(tmp_path: Path) -> None:
    gate = tmp_path / "gate"
    held = code.waits_for.spawn(str(gate), 1)
    call = code.add.spawn(held.arg)
    held.cancel(force=True)
    wait_until(lambda: call.done())
    assert call.status() == "cancelled"
