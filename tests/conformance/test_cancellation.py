from __future__ import annotations

from pathlib import Path

import pytest

import deepserve
from deepserve._current_client import current_client
from tests.conformance import user_code
from tests.conformance.conftest import wait_for_file, wait_until


def cancelled(call: deepserve.Call[object]) -> str:
    """How it was stopped."""
    with pytest.raises(deepserve.CallCancelled) as caught:
        call.get(timeout=60)
    assert call.status() == "cancelled"
    return caught.value.stopped


def test_code_that_runs_is_interrupted(tmp_path: Path) -> None:
    call = user_code.sleeps.spawn(str(tmp_path), "a")
    wait_for_file(tmp_path / "a")
    call.cancel()
    assert cancelled(call) == "cooperatively"
    assert wait_for_file(tmp_path / "a-stopped") == "True"
    call.cancel()  # again is no error


def test_a_coroutine_is_cancelled(tmp_path: Path) -> None:
    call = user_code.sleeps_async.spawn(str(tmp_path), "a")
    wait_for_file(tmp_path / "a")
    call.cancel()
    assert cancelled(call) == "cooperatively"
    assert wait_for_file(tmp_path / "a-stopped")


def test_code_that_does_not_stop_ends_with_its_pod(tmp_path: Path) -> None:
    call = user_code.holds_on.spawn(str(tmp_path), "a")
    wait_for_file(tmp_path / "a")
    call.cancel()
    assert cancelled(call) == "pod killed"


def test_force_does_not_wait(tmp_path: Path) -> None:
    call = user_code.sleeps.spawn(str(tmp_path), "a")
    wait_for_file(tmp_path / "a")
    call.cancel(force=True)
    assert cancelled(call) == "pod killed"


def test_a_call_that_waits_never_begins(tmp_path: Path) -> None:
    running = user_code.holds_on.spawn(str(tmp_path), "a")
    wait_for_file(tmp_path / "a")
    waiting = user_code.holds_on.spawn(str(tmp_path), "b")
    waiting.cancel()
    assert cancelled(waiting) == "before it began"
    running.cancel(force=True)
    cancelled(running)
    assert not (tmp_path / "b").exists()


def test_children_end_with_their_parent(tmp_path: Path) -> None:
    call = user_code.waits_for_child.spawn(str(tmp_path))
    wait_for_file(tmp_path / "child")
    call.cancel()
    cancelled(call)
    wait_until((tmp_path / "child-stopped").exists)


def test_a_stream(tmp_path: Path) -> None:
    call = user_code.counts.spawn(str(tmp_path), 10_000_000)
    items = call.stream()
    assert [next(items) for _ in range(3)] == [0, 1, 2]
    call.cancel()
    with pytest.raises(deepserve.CallCancelled):
        list(items)
    wait_for_file(tmp_path / "ended")


def test_one_of_several_in_a_pod_leaves_the_others_alone(tmp_path: Path) -> None:
    function = user_code.meets.with_options(max_pods=1)
    good = function.spawn(str(tmp_path), "good", ["go"])
    bad = function.spawn(str(tmp_path), "bad", ["never"])
    for name in ("good", "bad"):
        wait_for_file(tmp_path / name)
    bad.cancel()
    assert cancelled(bad) == "cooperatively"
    (tmp_path / "go").touch()
    assert good.get(timeout=60)
    assert good.timings is not None and good.timings.attempts == 1


def test_many_that_wait(tmp_path: Path) -> None:
    running = user_code.sleeps_async.spawn(str(tmp_path), "a")
    wait_for_file(tmp_path / "a")
    waiting = [user_code.sleeps_async.spawn(str(tmp_path), "b") for _ in range(500)]
    for call in [*waiting, running]:
        call.cancel()
    for call in [*waiting, running]:
        cancelled(call)


def test_an_unknown_call_is_no_error() -> None:
    current_client().cancel("rq-nobody-1")
    assert user_code.square.remote(2) == 4
