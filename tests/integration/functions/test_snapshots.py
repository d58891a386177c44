"""Snapshots of classes and templates of functions: loaded once, forked, and what cannot be forked is said."""

from __future__ import annotations

import os
import signal
from pathlib import Path
from typing import Any

import pytest

import deepserve
from deepserve._current_client import current_client
from tests.integration.functions.conftest import ScriptRunner, wait_until
from tests.integration.functions.own_generator import draw
from tests.integration.functions.snapshot_code import STATE_BYTES, Broken, Obstructed, Ranker, burst

NUM_PODS = 8


def function_view(name: str) -> dict[str, Any]:
    views = current_client().query("status")["functions"]
    return next(view for view in reversed(views) if view["label"].endswith(f"/{name}"))


def lines(folder: Path, name: str) -> list[str]:
    path = folder / name
    return path.read_text().split() if path.exists() else []


@pytest.fixture
def looks(tmp_path: Path) -> list[dict[str, Any]]:
    """What each of NUM_PODS pods sees of one snapshot."""
    calls = [Ranker(folder=str(tmp_path)).look.spawn(NUM_PODS) for _ in range(NUM_PODS)]
    found = [call.get(timeout=90) for call in calls]
    assert len({look["pid"] for look in found}) == NUM_PODS
    return found


def test_the_hook_runs_once_and_the_others_in_each_pod(looks: list[dict[str, Any]], tmp_path: Path) -> None:
    [loaded_by] = lines(tmp_path, "load")
    pids = {str(look["pid"]) for look in looks}
    assert loaded_by not in pids and {str(look["loaded_by"]) for look in looks} == {loaded_by}
    assert sorted(lines(tmp_path, "pod")) == sorted(pids)
    assert {tuple(look["order"]) for look in looks} == {("load", "more", "pod")}
    assert function_view("Ranker")["pod_source"] == "forked from its template"


def test_the_state_is_shared_and_random_numbers_are_not(looks: list[dict[str, Any]]) -> None:
    assert len({look["checksum"] for look in looks}) == 1
    assert all(look["private_bytes"] < STATE_BYTES // 4 for look in looks)
    for drawn in zip(*(look["drawn"] for look in looks), strict=True):
        assert len(set(drawn)) == NUM_PODS


def test_a_killed_template_is_built_again_and_nothing_is_left(tmp_path: Path) -> None:
    ranker = Ranker(folder=str(tmp_path))
    template = ranker.template_pid.remote()
    os.kill(template, signal.SIGKILL)
    wait_until(lambda: template not in [item["pid"] for item in current_client().query("status")["templates"]])
    function_id = function_view("Ranker")["function_id"]  # its pods end with it
    wait_until(lambda: function_id not in [pod["function_id"] for pod in current_client().query("status")["pods"]])
    assert ranker.template_pid.remote() != template
    assert len(lines(tmp_path, "load")) == 2
    with pytest.raises(ProcessLookupError):
        os.kill(template, 0)


@pytest.mark.parametrize(
    ("kind", "reason"),
    [
        ("thread", "thread 'poller' is alive"),
        ("socket", "tcp socket 127.0.0.1:"),
        ("file", "snapshot_code.py' is open"),
        ("pipe", "a pipe is open"),
        ("child", "has not been waited for"),
        ("call", "makes remote calls while it is loaded"),
    ],
)
def test_what_cannot_be_forked_is_named_and_each_pod_loads_it(
    kind: str, reason: str, capfd: pytest.CaptureFixture[str]
) -> None:
    assert Obstructed(kind=kind).is_loaded_here.remote() is True
    source = function_view("Obstructed")["pod_source"]
    assert source.startswith("not snapshotted: ") and reason in source
    printed = ""

    def is_told() -> bool:
        nonlocal printed
        printed += capfd.readouterr().err
        return "Obstructed: not snapshotted: " in printed and reason in printed

    wait_until(is_told)


def test_an_error_of_the_snapshot_arrives_as_it_was_raised() -> None:
    with pytest.raises(deepserve.StartupFailed, match="no weights here") as caught:
        Broken(how="raises").score.remote()
    assert isinstance(caught.value.__cause__, LookupError)


def test_a_snapshot_that_dies_is_tried_a_few_times() -> None:
    with pytest.raises(deepserve.StartupFailed, match="exit code 3.*3 tries"):
        Broken(how="dies").score.remote()


def test_a_snapshot_has_the_startup_timeout() -> None:
    @deepserve.cls(startup_timeout=0.5)
    class Slow:
        @deepserve.enter(snap=True)
        def load(self) -> None:
            import time

            time.sleep(60)

        @deepserve.method()
        def score(self) -> int:
            return 1

    with pytest.raises(deepserve.StartupFailed, match="startup_timeout"):
        Slow().score.remote()
    wait_until(lambda: "Slow" not in str(current_client().query("status")["templates"]))


def test_a_burst_of_a_function_is_loaded_once_and_forked(tmp_path: Path) -> None:
    calls = [burst.spawn(str(tmp_path), NUM_PODS) for _ in range(NUM_PODS)]
    pids = [call.get(timeout=90) for call in calls]
    assert len({pid for pid, _ in pids}) == NUM_PODS
    # The calls arrive one by one: for the first few it is not yet a burst.
    assert len({parent for _, parent in pids}) == 2, "that of the first few, and the one template"
    assert function_view("burst")["pod_source"] == "forked from its template"


def test_a_generator_that_nobody_asked_to_share_is_not_shared(tmp_path: Path) -> None:
    calls = [draw.spawn(str(tmp_path), NUM_PODS) for _ in range(NUM_PODS)]
    assert len({call.get(timeout=90) for call in calls}) == NUM_PODS
    assert function_view("draw")["pod_source"] == (
        "not snapshotted: a random.Random is alive: its copies would draw the same numbers"
    )


def test_exit_hooks_run_in_each_forked_pod_and_the_template_ends(script: ScriptRunner) -> None:
    text = """
import deepserve, os, pathlib, sys, time

@deepserve.cls(max_pods=3)
class Service:
    @deepserve.enter(snap=True)
    def load(self):
        print("loading")

    @deepserve.method()
    def work(self, num_calls):
        pathlib.Path(f"here-{os.getpid()}").touch()
        while len(list(pathlib.Path().glob("here-*"))) < num_calls:
            time.sleep(0.01)
        return os.getpid()

    @deepserve.exit()
    def close(self):
        pathlib.Path(f"closed-{os.getpid()}").touch()

if __name__ == "__main__":
    os.chdir(os.path.dirname(os.path.abspath(__file__)))
    print(len({call.get() for call in [Service().work.spawn(3) for _ in range(3)]}))
"""
    done = script.run(text)
    assert (done.returncode, done.stdout.split()) == (0, ["loading", "3"]), done.stderr
    wait_until(lambda: len(list(script.folder.glob("closed-*"))) == 3)


def test_a_class_with_other_options_has_pods_and_a_snapshot_of_its_own(tmp_path: Path) -> None:
    wide: Any = Ranker.with_options(max_pods=2, memory=4096)  # type: ignore[attr-defined]
    assert issubclass(wide, Ranker)
    usual = Ranker(folder=str(tmp_path)).template_pid.remote()
    other = wide(folder=str(tmp_path)).template_pid.remote()
    assert usual != other and len(lines(tmp_path, "load")) == 2
    assert function_view("Ranker")["max_pods"] == 2
    with pytest.raises(deepserve.InvalidOption, match="no option"):
        Ranker.with_options(pods=2)  # type: ignore[attr-defined]


def test_a_snapshot_has_the_functions_memory_limit(tmp_path: Path) -> None:
    small: Any = Ranker.with_options(memory=48)  # type: ignore[attr-defined]
    with pytest.raises(deepserve.StartupFailed, match="its limit is 48 MiB") as caught:
        small(folder=str(tmp_path)).template_pid.remote()
    assert isinstance(caught.value.__cause__, MemoryError)
