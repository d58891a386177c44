"""`batched`: who shares a run with whom, and that what happens to one item is nobody else's matter."""

from __future__ import annotations

import asyncio
import subprocess
import sys
import textwrap
import time
from pathlib import Path
from typing import Any

import pytest

import deepserve
from deepserve.protocol.messages import Timings
from tests.integration.functions import batched_code as code
from tests.integration.functions.conftest import ScriptRunner, wait_until


def outcome(call: deepserve.Call[Any]) -> Any:
    try:
        return call.get(timeout=60)
    except Exception as error:
        return error


def state_of(call: deepserve.Call[Any]) -> str:
    [record] = [record for record in deepserve.recent_requests() if record["request_id"] == call.id]
    return str(record["state"])


def timings(call: deepserve.Call[Any]) -> Timings:
    assert call.timings is not None
    return call.timings


def test_callers_of_one_item_share_a_run() -> None:
    calls = [code.together.spawn(text, "!") for text in "abcd"]
    assert [outcome(call) for call in calls] == [(f"{text}!", ["a", "b", "c", "d"]) for text in "abcd"]
    assert {timings(call).attempts for call in calls} == {1}
    assert code.together("x", "!") == ("x!", ["x"]) == code.together.local("x", "!")


def test_a_bad_item_fails_alone() -> None:
    calls = [code.together.spawn(text, "") for text in ("a", "bad", "c", "d")]
    a, bad, c, d = (outcome(call) for call in calls)
    assert isinstance(bad, ValueError) and str(bad) == "bad among 1"
    assert (a, c, d) == (("a", ["a"]), ("c", ["c", "d"]), ("d", ["c", "d"]))
    assert [timings(call).attempts for call in calls] == [3, 3, 2, 2]


def test_an_exception_in_the_list_is_its_items() -> None:
    outputs = list(code.together.map(["a", "worse", "c", "d"], kwargs={"marks": "?"}, return_exceptions=True))
    assert isinstance(outputs[1], KeyError)
    assert [output[0] for output in outputs if isinstance(output, tuple)] == ["a?", "c?", "d?"]
    with pytest.raises(KeyError):
        code.together("worse", "")


def test_parameters_by_name_and_coroutines() -> None:
    async def main() -> None:
        assert sorted(await asyncio.gather(*(later.remote.aio(n, add=1) for n in range(9)))) == list(range(1, 10))
        assert await later(1, add=2) == 3

    later: Any = code.later
    asyncio.run(main())
    assert later.remote(2, add=5) == 7
    with pytest.raises(TypeError, match="later\\(\\): missing a required.*'add'"):
        later.remote(2)


@pytest.mark.parametrize(
    ("kind", "text"),
    [
        ("short", "wrong returned 2 results for a batch of 3"),
        ("text", "wrong returned str for a batch of 3: it must return a list"),
    ],
)
def test_a_list_that_does_not_fit_fails_all_of_the_batch(kind: str, text: str) -> None:
    calls = [code.wrong.spawn(kind) for _ in range(3)]
    for call in calls:
        error = outcome(call)
        assert isinstance(error, deepserve.BatchMismatch) and text in str(error)
        assert timings(call).attempts == 1


def test_a_cancelled_item_leaves_the_batch_before_it_runs() -> None:
    a, b = code.together.spawn("a", ""), code.together.spawn("b", "")
    a.cancel()
    assert isinstance(outcome(a), deepserve.CallCancelled)
    others = [code.together.spawn(text, "") for text in "cde"]
    assert [outcome(call) for call in (b, *others)] == [(text, ["b", "c", "d", "e"]) for text in "bcde"]


@pytest.mark.parametrize("function", [code.until, code.until_async])
def test_a_cancelled_item_does_not_disturb_its_batch(function: Any, tmp_path: Path) -> None:
    a, b, c = (function.spawn(str(tmp_path), name) for name in "abc")
    wait_until(tmp_path.joinpath("started").exists)
    b.cancel()
    assert isinstance(outcome(b), deepserve.CallCancelled)
    tmp_path.joinpath("go").touch()
    assert outcome(a)[1] == outcome(c)[1] == ["a", "b", "c"]
    assert (timings(a).attempts, timings(c).attempts) == (1, 1)


@pytest.mark.parametrize("function", [code.until, code.until_async])
def test_the_last_cancelled_item_stops_the_code(function: Any, tmp_path: Path) -> None:
    calls = [function.spawn(str(tmp_path), name) for name in "abc"]
    wait_until(tmp_path.joinpath("started").exists)
    for call in calls:
        call.cancel()
    assert all(isinstance(outcome(call), deepserve.CallCancelled) for call in calls)
    pod_id = timings(calls[0]).pod_id
    tmp_path.joinpath("go").touch()
    others = [function.spawn(str(tmp_path), name) for name in "def"]
    assert [outcome(call)[1] for call in others] == [["d", "e", "f"]] * 3
    assert timings(others[0]).pod_id == pod_id  # it did not have to be killed


def test_an_item_out_of_time_stops_the_batch_and_the_others_run_again(tmp_path: Path) -> None:
    late = code.stuck_once.spawn(str(tmp_path), "late")
    wait_until(lambda: state_of(late) == "running")  # its time has begun
    time.sleep(2)  # half of it: what is to be seen is that the second item outlives the first
    other = code.stuck_once.spawn(str(tmp_path), "other")
    assert isinstance(outcome(late), deepserve.FunctionTimeout)
    assert outcome(other) == ("other", 1, False)
    assert timings(other).attempts == 2


def test_sizes_bound_a_batch() -> None:
    texts = ["a" * 6, "b" * 4, "c" * 7, "d" * 12, "e"]
    runs = list(code.by_size.map(texts))
    assert all(len(run) == 1 or sum(map(len, run)) <= 10 for run in runs)
    assert [text in run for text, run in zip(texts, runs, strict=True)] == [True] * 5
    assert runs[3] == [texts[3]]
    with pytest.raises(TypeError, match="has no len"):
        code.by_size.remote(3)  # type: ignore[arg-type]


def test_retries_are_the_items_own(tmp_path: Path) -> None:
    assert code.fails_once.remote(str(tmp_path)) == 2


def test_methods_share_an_instance_and_do_not_run_side_by_side() -> None:
    model = code.Model()
    assert model.scale(2) == (20, 1)
    calls = [model.scale.spawn(number) for number in range(4)]
    assert [outcome(call) for call in calls] == [(number * 10, 4) for number in range(4)]
    assert set(model.alone.map(range(12))) == {1}
    assert set(model.alone_async.map(range(12))) == {1}


def test_a_batch_that_never_fills_runs_after_its_wait() -> None:
    @deepserve.function
    @deepserve.batched(max_batch_size=100, wait_ms=1)
    def sizes(items: list[int]) -> list[int]:
        return [len(items)] * len(items)

    assert sizes.remote(1) == 1


def test_callers_without_python_give_one_item(script: ScriptRunner) -> None:
    text = """
        import deepserve

        @deepserve.function
        @deepserve.batched(max_batch_size=8, wait_ms=1)
        def weigh(texts: list[str], factors: list[int]) -> list[int]:
            return [len(text) * factor for text, factor in zip(texts, factors)]
    """
    script.write(textwrap.dedent(text))
    command = [sys.executable, "-m", "deepserve.cli", "run", "app.py::weigh", "--texts", "abc"]
    environment = {**script.environment, "DEEPSERVE_QUIET": "1"}
    done = subprocess.run(
        [*command, "--factors", "2"], cwd=script.folder, env=environment, capture_output=True, text=True, timeout=60
    )
    assert done.stdout == "6\n", done.stderr
    done = subprocess.run(
        [*command, "--factors", "x"], cwd=script.folder, env=environment, capture_output=True, text=True, timeout=60
    )
    assert done.returncode == 2 and "factors" in done.stderr


def test_the_code_of_a_batch_is_cancelled_with_its_last_item(tmp_path: Path) -> None:
    """`deepserve.cancelled()` is the batch's, though it has the context of its first item."""
    calls = [code.asks.spawn(str(tmp_path), name) for name in "ab"]
    wait_until(tmp_path.joinpath("started").exists)
    calls[0].cancel()
    assert isinstance(outcome(calls[0]), deepserve.CallCancelled)
    tmp_path.joinpath("look").touch()
    wait_until(tmp_path.joinpath("looked").exists)
    assert tmp_path.joinpath("looked").read_text() == "False"
    tmp_path.joinpath("go").touch()
    assert outcome(calls[1]) == "b"
