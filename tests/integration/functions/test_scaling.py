"""How many pods a function has: asked, changed while it runs, drained, and held to the host's memory."""

from __future__ import annotations

import asyncio
import os
from pathlib import Path

import pytest

import deepserve
from deepserve.errors import Refused
from tests.integration.functions import scaling_code as code
from tests.integration.functions.conftest import wait_until


def test_a_function_of_the_script_tells_and_takes_its_settings() -> None:
    scaler = code.plain.autoscaler
    assert code.plain.remote(1) == 2
    before = scaler.settings()
    assert (before.min_pods, before.buffer_pods, before.scaledown_window) == (0, 0, 120.0)
    assert scaler.update(min_pods=1, max_pods=2) == (1, 2, 0, 120.0)
    assert scaler.update(buffer_pods=1, scaledown_window=30) == (1, 2, 1, 30.0), "what is not given stays"
    assert scaler.settings() == (1, 2, 1, 30.0)
    first = scaler.history()[0]
    assert (first.from_pods, first.to_pods, first.queued) == (0, 1, 1)
    assert first.reason.startswith("1 queued + 0 running") and first.at.tzinfo is not None
    wait_until(lambda: code.plain.get_current_stats() == (0, 0, 1))
    assert scaler.update(min_pods=0, max_pods=None, buffer_pods=0).max_pods >= 4


def test_settings_have_async_twins_and_refuse_to_block_a_loop() -> None:
    async def main() -> None:
        assert (await code.plain.autoscaler.settings.aio()).min_pods == 0
        assert (await code.plain.get_current_stats.aio()).backlog == 0
        with pytest.raises(deepserve.AsyncUsageError, match=r"plain.autoscaler.settings.aio"):
            code.plain.autoscaler.settings()

    asyncio.run(main())


@pytest.mark.parametrize(
    ("bounds", "says"),
    [
        ({"min_pods": 3, "max_pods": 2}, "min_pods"),
        ({"min_pods": -1}, "min_pods=-1"),
        ({"max_pods": 0}, "max_pods=0"),
        ({"buffer_pods": "x"}, "buffer_pods='x'"),
        ({"scaledown_window": -1}, "scaledown_window=-1"),
    ],
)
def test_wrong_bounds_are_refused_and_named(bounds: dict[str, object], says: str) -> None:
    with pytest.raises(deepserve.InvalidOption, match=says):
        code.plain.autoscaler.update(**bounds)  # type: ignore[arg-type]


def test_bounds_that_contradict_those_in_force_are_refused(tmp_path: Path) -> None:
    holder = code.Holder(folder=str(tmp_path)).hold
    with pytest.raises(deepserve.InvalidOption, match="min_pods 4 is more than max_pods 3"):
        holder.autoscaler.update(min_pods=4)


def test_a_shrunk_function_loses_no_input_and_gives_draining_pods_nothing_new(tmp_path: Path) -> None:
    holder = code.Holder(folder=str(tmp_path)).hold
    calls = {name: holder.spawn(name) for name in "abc"}
    wait_until(lambda: holder.get_current_stats() == (0, 3, 3))
    assert holder.autoscaler.update(max_pods=1).max_pods == 1
    (tmp_path / "d").touch()
    late = holder.spawn("d")
    wait_until(lambda: holder.get_current_stats().backlog == 1)
    assert holder.get_current_stats() == (1, 3, 3)
    for name in calls:
        (tmp_path / name).touch()
    pids = {call.get(timeout=60) for call in calls.values()}
    assert len(pids) == 3
    wait_until(lambda: len(list(tmp_path.glob("ended-*"))) == 2)
    ended = {int(path.name.removeprefix("ended-")) for path in tmp_path.glob("ended-*")}
    assert {late.get(timeout=60)} == pids - ended, "only the pod that stays takes the new one"
    wait_until(lambda: holder.get_current_stats() == (0, 0, 1))
    reasons = [decision.reason for decision in holder.autoscaler.history()]
    assert "at most 1 pods since the bounds changed" in reasons
    holder.autoscaler.update(scaledown_window=0.05)
    wait_until(lambda: holder.get_current_stats().num_total_pods == 0)
    assert len(list(tmp_path.glob("ended-*"))) == 3, "exit hooks ran"


def test_more_than_the_target_runs_at_once_and_asks_for_more_pods(tmp_path: Path) -> None:
    paths = [str(tmp_path / name) for name in "abcd"]
    first = code.hold.spawn(paths[0])
    wait_until(lambda: code.hold.get_current_stats() == (0, 1, 1))
    second = code.hold.spawn(paths[1])  # taken by the busy pod, in a burst
    wait_until(lambda: code.hold.get_current_stats().num_total_pods == 2)
    reason = code.hold.autoscaler.history()[-1].reason
    assert reason.startswith("0 queued + 2 running tasks / 1 slots = 2 pods")
    wait_until(lambda: code.hold.autoscaler.history() != [] and _ready(code.hold) == 2)
    third = code.hold.spawn(paths[2])  # goes to the pod below its target
    for path in paths:
        Path(path).touch()
    pids = [call.get(timeout=60) for call in (first, second, third)]
    assert pids[0] == pids[1] != pids[2]


def _ready(function: deepserve.Function[..., object]) -> int:
    from deepserve._autoscaler import ask_of_function

    ready: int = ask_of_function(function.definition, "function")["ready"]
    return ready


def test_a_pod_that_the_host_can_never_hold_is_refused_at_the_first_call() -> None:
    host_mib = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") >> 20
    greedy = code.plain.with_options(memory=host_mib - host_mib // 50)
    with pytest.raises(Refused, match=r"a pod of scaling/plain needs \d+ MiB of memory; this host has \d+ MiB"):
        greedy.remote(1)
    with pytest.raises(Refused, match="MiB of memory"):
        list(greedy.map([1, 2, 3]))
    assert greedy.get_current_stats() == (0, 0, 0)
