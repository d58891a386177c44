from __future__ import annotations

from pathlib import Path

import pytest

import deepserve
from tests.conformance import user_code
from tests.conformance.conftest import wait_for_file, wait_until


def test_a_call_is_run_again_after_exceptions_that_it_names() -> None:
    call = user_code.flaky.spawn("twice")
    assert call.get(timeout=60) == (3, call.id)
    assert call.timings is not None
    assert (call.timings.attempts, call.timings.user_retries, call.timings.pod_losses) == (3, 2, 0)


@pytest.mark.parametrize(
    ("kind", "error", "attempt"),
    [("always", ConnectionError, 3), ("value", ValueError, 1), ("never", user_code.Never, 1)],
)
def test_the_last_exception_arrives(kind: str, error: type[Exception], attempt: int) -> None:
    with pytest.raises(error, match=f"attempt {attempt}"):
        user_code.flaky.remote(kind)


def test_an_input_of_a_map_is_run_again_by_itself() -> None:
    outputs = list(user_code.flaky.map(["a", "value", "b"], return_exceptions=True))
    assert [output[0] for output in (outputs[0], outputs[2])] == [3, 3]  # type: ignore[index]
    assert isinstance(outputs[1], ValueError)


def test_lost_pods_have_an_account_of_their_own() -> None:
    call = user_code.kills_its_pod.spawn(2)
    assert call.get(timeout=60) == 3
    assert call.timings is not None
    assert (call.timings.attempts, call.timings.user_retries, call.timings.pod_losses) == (3, 0, 2)
    with pytest.raises(deepserve.PodLost) as caught:
        user_code.kills_its_pod.remote(99)
    assert caught.value.pod_losses == 3


def test_the_clock_of_the_run() -> None:
    with pytest.raises(deepserve.FunctionTimeout) as caught:
        user_code.slow.with_options(timeout=0.2).remote(60)
    assert caught.value.clock == "run"
    assert user_code.slow.remote(0) == 0


def test_the_clock_of_the_queue(tmp_path: Path) -> None:
    while not (tmp_path / "a").exists():  # the first pod may take longer than the queue's time
        running = user_code.single.spawn(str(tmp_path), "a")
        wait_until(lambda call=running: call.done() or (tmp_path / "a").exists())
    with pytest.raises(deepserve.FunctionTimeout) as caught:
        user_code.single.remote(str(tmp_path), "b")
    assert (caught.value.clock, caught.value.stopped) == ("queue", "before it began")
    assert not (tmp_path / "b").exists()
    running.cancel(force=True)
    with pytest.raises(deepserve.CallCancelled):
        running.get(timeout=60)


def test_the_clock_of_the_start() -> None:
    with pytest.raises(deepserve.StartupTimeout) as caught:
        user_code.SlowToLoad().run.remote()
    assert caught.value.clock == "startup"


def test_a_child_has_no_more_time_than_its_caller(tmp_path: Path) -> None:
    while not (tmp_path / "grandchild").exists():  # its pod may take longer to start than its caller has
        with pytest.raises(deepserve.FunctionTimeout):
            user_code.short_of_time.remote(str(tmp_path))
    wait_for_file(tmp_path / "grandchild-stopped")


def test_get_may_give_up_while_the_call_goes_on(tmp_path: Path) -> None:
    call = user_code.waits_for_file.spawn(str(tmp_path), "go", "done")
    with pytest.raises(TimeoutError):
        call.get(timeout=0.05)
    (tmp_path / "go").touch()
    assert call.get(timeout=60) == "done"
