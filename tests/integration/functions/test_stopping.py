"""Cancellation, clocks, retries and recursion on real pods: what ends, how, and what goes on."""

from __future__ import annotations

import os
import signal
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

import deepserve
from tests.integration.functions import stopping_code as code
from tests.integration.functions.conftest import wait_until
from tests.integration.functions.user_code import square


@pytest.fixture(autouse=True)
def next_call_works() -> Iterator[None]:
    yield
    assert square.remote(7) == 49


def text_of(path: Path) -> str:
    """Of a file, as soon as it is there."""
    wait_until(path.exists)
    return path.read_text()


def is_gone(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] in "ZX"
    except OSError:
        return True


HARD_TO_STOP = ["masks the signal", "replaces the handler", "swallows it", "holds the interpreter", "is stopped"]


# --- a call that is alone in its pod --------------------------------------------------------------------


@pytest.mark.parametrize("how", HARD_TO_STOP)
def test_a_cancel_ends_code_that_does_not_stop_and_its_process(how: str, tmp_path: Path) -> None:
    call = code.stuck.spawn(how, str(tmp_path))
    pid = int(text_of(tmp_path / "began"))
    call.cancel()
    with pytest.raises(deepserve.CallCancelled, match="pod killed") as caught:
        call.get(timeout=60)
    assert caught.value.stopped == "pod killed"
    wait_until(lambda: is_gone(pid))


@pytest.mark.parametrize("how", HARD_TO_STOP)
def test_a_time_limit_ends_it_too(how: str, tmp_path: Path) -> None:
    with pytest.raises(deepserve.FunctionTimeout, match="over its time limit of 1 s; pod killed") as caught:
        code.stuck.with_options(timeout=1).remote(how, str(tmp_path))
    assert (caught.value.clock, caught.value.stopped) == ("run", "pod killed")
    wait_until(lambda: is_gone(int(text_of(tmp_path / "began"))))


def test_a_cancel_says_that_the_code_stopped_by_itself(tmp_path: Path) -> None:
    call = code.polls.spawn(str(tmp_path))
    text_of(tmp_path / "began")
    call.cancel()
    with pytest.raises(deepserve.CallCancelled, match="stopped cooperatively") as caught:
        call.get(timeout=60)
    assert caught.value.stopped == "cooperatively"
    assert text_of(tmp_path / "polled") == "False True"
    assert deepserve.cancelled() is False


def test_a_call_may_cancel_itself() -> None:
    with pytest.raises(deepserve.CallCancelled, match="stopped cooperatively"):
        code.cancels_itself.remote()


def test_a_call_is_cancelled_by_whoever_knows_its_id(tmp_path: Path) -> None:
    call = code.polls.spawn(str(tmp_path))
    text_of(tmp_path / "began")
    deepserve.Call.from_id(call.id).cancel()
    with pytest.raises(deepserve.CallCancelled):
        call.get(timeout=60)
    (tmp_path / "began").unlink()
    other = code.polls.spawn(str(tmp_path))
    text_of(tmp_path / "began")
    assert code.cancels.remote(other.id) == "cooperatively"  # from inside another call
    assert other.status() == "cancelled"


def test_cancelling_what_is_over_or_unknown_changes_nothing() -> None:
    call = square.spawn(3)
    assert call.get(timeout=60) == 9
    call.cancel()
    call.cancel(force=True)
    assert (call.get(), call.status()) == (9, "ok")
    unknown = deepserve.Call.from_id("rq-nobody-1")
    unknown.cancel()
    with pytest.raises(deepserve.NotFound, match="unknown request"):
        unknown.get(timeout=60)
    cancelled = code.stuck.spawn("sleeps", "/nowhere")
    for _ in range(3):
        cancelled.cancel()
    with pytest.raises((deepserve.CallCancelled, FileNotFoundError)):
        cancelled.get(timeout=60)


@pytest.mark.parametrize(
    "options",
    [{"queue_timeout": -1}, {"queue_timeout": True}, {"startup_timeout": 0}, {"timeout": "1"}, {"retries": 1.5}],
)
def test_wrong_limits_name_the_function_and_the_option(options: dict[str, Any]) -> None:
    [(name, value)] = options.items()
    with pytest.raises(deepserve.InvalidOption, match=f"stuck: {name}={value!r}"):
        code.stuck.with_options(**options)


def test_a_coroutine_is_cancelled_as_coroutines_are(tmp_path: Path) -> None:
    call = code.coroutine.spawn(str(tmp_path))
    text_of(tmp_path / "began")
    call.cancel()
    with pytest.raises(deepserve.CallCancelled) as caught:
        call.get(timeout=60)
    assert caught.value.stopped == "cooperatively"
    assert text_of(tmp_path / "cancelled") == "True"


def test_a_call_that_never_began_says_so(tmp_path: Path) -> None:
    running = code.stuck.spawn("sleeps", str(tmp_path))
    text_of(tmp_path / "began")
    waiting = code.stuck.spawn("sleeps", str(tmp_path))
    waiting.cancel()
    with pytest.raises(deepserve.CallCancelled) as caught:
        waiting.get(timeout=60)
    assert caught.value.stopped == "before it began"
    running.cancel(force=True)
    with pytest.raises(deepserve.CallCancelled, match="pod killed"):
        running.get(timeout=60)


# --- one of several in a pod ----------------------------------------------------------------------------


@pytest.mark.parametrize("how", ["swallows it", "masks the signal"])
def test_the_others_of_a_stuck_input_finish_where_they_are_and_then_the_pod_dies(how: str, tmp_path: Path) -> None:
    folder = str(tmp_path)
    bad = code.one_of_several.spawn(how, folder, "bad")
    pid = int(text_of(tmp_path / "bad-1"))
    good = [code.one_of_several.spawn("wait", folder, f"good{number}") for number in range(2)]
    assert {int(text_of(tmp_path / f"good{number}-1")) for number in range(2)} == {pid}
    bad.cancel()
    with pytest.raises(deepserve.CallCancelled, match="its pod is killed when") as caught:
        bad.get(timeout=60)  # while the others are still there
    assert caught.value.stopped == "pod draining" and not any(call.done() for call in good)
    later = code.one_of_several.spawn("wait", folder, "later")
    assert int(text_of(tmp_path / "later-1")) != pid  # nothing new comes to that pod, another one is started
    (tmp_path / "go").touch()
    assert [call.get(timeout=60) for call in good] == [(pid, 1), (pid, 1)]
    assert later.get(timeout=60)[1] == 1
    wait_until(lambda: is_gone(pid))
    attempts = sorted(path.name for path in tmp_path.iterdir() if path.name != "go")
    assert attempts == ["bad-1", "good0-1", "good1-1", "later-1"]


def test_a_coroutine_that_does_not_stop_leaves_the_others_their_time_too(tmp_path: Path) -> None:
    bad = code.coroutine_of_several.spawn("swallows it", str(tmp_path), "bad")
    pid = int(text_of(tmp_path / "bad"))
    good = code.coroutine_of_several.spawn("waits", str(tmp_path), "good")
    text_of(tmp_path / "good")
    bad.cancel()
    with pytest.raises(deepserve.CallCancelled) as caught:
        bad.get(timeout=60)
    assert caught.value.stopped == "pod draining"
    (tmp_path / "go").touch()
    assert good.get(timeout=60) == pid
    wait_until(lambda: is_gone(pid))


@pytest.mark.parametrize("how", ["holds the interpreter", "is stopped"])
def test_where_nothing_in_the_pod_can_go_on_the_others_run_again_and_it_is_counted(how: str, tmp_path: Path) -> None:
    folder = str(tmp_path)
    good = code.one_of_several.spawn("wait", folder, "good")
    pid = int(text_of(tmp_path / "good-1"))
    bad = code.one_of_several.spawn(how, folder, "bad")
    assert int(text_of(tmp_path / "bad-1")) == pid
    (tmp_path / "go").touch()
    bad.cancel()
    with pytest.raises(deepserve.CallCancelled) as caught:
        bad.get(timeout=60)
    assert caught.value.stopped == "pod killed"
    again_pid, attempt = good.get(timeout=60)
    assert good.timings is not None
    assert (attempt, good.timings.pod_losses) in ((1, 0), (2, 1))  # it may have seen `go` in time
    assert (again_pid == pid) == (attempt == 1)
    wait_until(lambda: is_gone(pid))


def test_force_kills_at_once_and_the_others_run_again_counted(tmp_path: Path) -> None:
    folder = str(tmp_path)
    bad = code.one_of_several.spawn("swallows it", folder, "bad")
    good = code.one_of_several.spawn("wait", folder, "good")
    pid = int(text_of(tmp_path / "bad-1"))
    assert int(text_of(tmp_path / "good-1")) == pid
    bad.cancel(force=True)
    with pytest.raises(deepserve.CallCancelled, match="pod killed"):
        bad.get(timeout=60)
    assert int(text_of(tmp_path / "good-2")) != pid
    (tmp_path / "go").touch()
    assert good.get(timeout=60)[1] == 2
    assert good.timings is not None and (good.timings.pod_losses, good.timings.user_retries) == (1, 0)
    [record] = [found for found in deepserve.recent_requests() if found["request_id"] == bad.id]
    assert (record["state"], record["stopped"]) == ("cancelled", "pod killed")


def test_one_of_several_that_obeys_harms_nobody(tmp_path: Path) -> None:
    folder = str(tmp_path)
    bad = code.one_of_several.spawn("sleeps", folder, "bad")
    good = code.one_of_several.spawn("wait", folder, "good")
    pids = {int(text_of(tmp_path / f"{name}-1")) for name in ("bad", "good")}
    other = code.one_of_several.spawn("looks", folder, "other")  # not in the main thread: raised at its next bytecode
    text_of(tmp_path / "other-1")
    bad.cancel()
    with pytest.raises(deepserve.CallCancelled, match="stopped cooperatively"):
        bad.get(timeout=60)
    (tmp_path / "go").touch()
    assert good.get(timeout=60) == (pids.pop(), 1) and not pids
    other.cancel(force=True)
    with pytest.raises(deepserve.CallCancelled, match="pod killed"):
        other.get(timeout=60)


def test_the_exception_is_raised_in_the_thread_of_its_input(tmp_path: Path) -> None:
    folder, names = str(tmp_path), ("a", "b", "c")
    calls = [code.one_of_several.spawn("spins", folder, name) for name in names]
    assert len({text_of(tmp_path / f"{name}-1") for name in names}) == 1
    for name, call in zip(names, calls, strict=True):
        call.cancel()
        with pytest.raises(deepserve.CallCancelled, match="stopped cooperatively"):
            call.get(timeout=60)
        interrupted = {other for other in names if (tmp_path / f"{other}-interrupted").exists()}
        assert interrupted == set(names[: names.index(name) + 1])


# --- clocks ---------------------------------------------------------------------------------------------


def test_the_queue_clock(tmp_path: Path) -> None:
    while not (tmp_path / "began").exists():  # the first pod may take longer than the queue's time
        running = code.single.spawn(str(tmp_path))
        wait_until(lambda call=running: call.done() or (tmp_path / "began").exists())  # type: ignore[misc]
    with pytest.raises(deepserve.FunctionTimeout, match="wait for a pod of 0.5 s; before it began") as caught:
        code.single.remote(str(tmp_path))
    assert (caught.value.clock, caught.value.stopped) == ("queue", "before it began")
    running.cancel()
    with pytest.raises(deepserve.CallCancelled):
        running.get(timeout=60)


def test_the_startup_clock() -> None:
    with pytest.raises(deepserve.StartupTimeout, match="startup_timeout of 1 s") as caught:
        code.SlowToLoad().run.remote()
    assert caught.value.clock == "startup"
    with pytest.raises(deepserve.StartupTimeout):
        code.SlowToLoad(how="is stopped").run.remote()
    assert isinstance(caught.value, deepserve.FunctionTimeout) and isinstance(caught.value, deepserve.StartupFailed)


def test_what_code_may_know_of_its_call() -> None:
    key, index, left_s = code.tells_its_context.remote(1)
    assert key.startswith("rq-") and index == -1 and left_s is not None and 0.0 < left_s <= 40.0
    keys = [key for key, _, _ in code.tells_its_context.map(range(3))]
    assert len(set(keys)) == 3
    assert deepserve.context().time_left_s is None


# --- retries --------------------------------------------------------------------------------------------


def test_lost_pods_are_paid_from_their_own_account(tmp_path: Path) -> None:
    call = code.kills_its_pod.spawn(2, str(tmp_path))
    assert call.get(timeout=60) == (3, call.id)
    assert call.timings is not None
    assert (call.timings.attempts, call.timings.pod_losses, call.timings.user_retries) == (3, 2, 0)
    assert {path.read_text() for path in tmp_path.iterdir()} == {call.id}  # the key is the same in every attempt


def test_a_call_that_kills_every_pod_ends(tmp_path: Path) -> None:
    with pytest.raises(deepserve.PodLost, match="killed by SIGKILL.*the last of 3 pods lost under it") as caught:
        code.kills_its_pod.remote(99, str(tmp_path))
    assert (caught.value.pod_losses, caught.value.exit_code) == (3, -9)
    assert len(list(tmp_path.iterdir())) == 3


def test_never_on_wins() -> None:
    assert code.fails.remote("sometimes") == 3
    with pytest.raises(code.Never):
        code.fails.remote("never")


# --- recursion ------------------------------------------------------------------------------------------


def test_recursion_without_end_is_refused_and_names_the_chain() -> None:
    with pytest.raises(deepserve.RecursionTooDeep, match="at most 100") as caught:
        code.two_steps.remote(1 << 30)
    assert "stopping/two_steps > stopping/one_step > stopping/two_steps > ... > " in str(caught.value)
    assert code.two_steps.remote(20) == "bottom"


# --- a pod that was stopped from outside ----------------------------------------------------------------


def test_an_idle_pod_that_is_stopped_costs_one_call_its_time_limit_and_is_replaced() -> None:
    pid = code.pid.remote()
    os.kill(pid, signal.SIGSTOP)
    with pytest.raises(deepserve.FunctionTimeout, match="over its time limit of 3 s; pod killed"):
        code.pid.remote()
    assert code.pid.remote() != pid
    wait_until(lambda: is_gone(pid))


def test_a_stopped_pod_that_is_given_up_is_killed() -> None:
    pid = code.short_lived.remote()
    os.kill(pid, signal.SIGSTOP)
    wait_until(lambda: is_gone(pid))
    assert code.short_lived.remote() != pid


# --- many -----------------------------------------------------------------------------------------------


def test_ten_thousand_pending_calls_are_cancelled_and_gone(tmp_path: Path) -> None:
    running = code.stuck.spawn("sleeps", str(tmp_path))
    text_of(tmp_path / "began")
    waiting = [code.stuck.spawn("sleeps", str(tmp_path)) for _ in range(10_000)]
    for call in waiting:
        call.cancel()
    for call in waiting:
        with pytest.raises(deepserve.CallCancelled):
            call.get(timeout=60)
    running.cancel()
    with pytest.raises(deepserve.CallCancelled):
        running.get(timeout=60)


def test_ten_thousand_spawned_calls_all_end() -> None:
    calls = [square.spawn(number) for number in range(10_000)]
    assert [call.get(timeout=120) for call in calls] == [number * number for number in range(10_000)]
