"""Maps of short calls, which pods get in chunks: each input ends as if it had come alone."""

from __future__ import annotations

import asyncio
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

import deepserve
from deepserve._current_client import current_client
from deepserve._inbox import Inbox
from deepserve.protocol.map_messages import ItemsFinished
from tests.integration.functions import chunk_code
from tests.integration.functions.chunk_code import Odd, act, act_alone


def learn(function: Any) -> None:
    """So many short runs that inputs go many at once from now on."""
    assert list(function.map(range(300))) == list(range(300))


@pytest.fixture
def frames(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """How many results came in each frame."""
    sizes: list[int] = []
    put_item = Inbox.put_item

    def count(self: Inbox, item: Any) -> Any:
        sizes.append(len(item.message.sizes) if isinstance(item.message, ItemsFinished) else 1)
        return put_item(self, item)

    monkeypatch.setattr(Inbox, "put_item", count)
    return sizes


def test_ten_thousand_inputs_in_order_and_in_few_frames(frames: list[int]) -> None:
    assert list(act.map(range(10_000))) == list(range(10_000))
    assert sorted(act.map(range(10_000), order_outputs=False)) == list(range(10_000))
    assert sum(frames) == 20_000 and len(frames) < 4_000, f"{len(frames)} frames"


def test_a_long_input_holds_back_none_behind_it_nor_any_result_before_it(tmp_path: Path) -> None:
    """It ends only when all others were taken."""
    learn(act)
    gate = tmp_path / "gate"
    inputs: list[Any] = list(range(500))
    inputs[40] = ("wait", str(gate))
    taken = []
    for output in act.map(inputs, order_outputs=False):
        taken.append(output)
        if len(taken) == 499:
            assert ("wait", str(gate)) not in taken
            gate.touch()
    assert len(taken) == 500


def test_with_one_pod_what_was_finished_before_a_long_input_is_not_held_back(tmp_path: Path) -> None:
    learn(act_alone)
    gate = tmp_path / "gate"
    outputs = act_alone.map([*range(50), ("wait", str(gate)), *range(50)])
    assert [next(outputs) for _ in range(50)] == list(range(50))
    gate.touch()
    assert len(list(outputs)) == 51


def test_one_input_fails_alone_and_is_named() -> None:
    learn(act)
    inputs: list[Any] = list(range(400))
    inputs[123] = ("raise", "no")
    outputs = list(act.map(inputs, return_exceptions=True))
    assert [output for output in outputs if not isinstance(output, Odd)] == [n for n in range(400) if n != 123]
    assert isinstance(outputs[123], Odd) and outputs[123].input_index == 123  # type: ignore[attr-defined]
    taken = []
    with pytest.raises(Odd) as caught:
        for output in act.map(inputs):
            taken.append(output)
    assert taken == list(range(123)) and caught.value.input_index == 123  # type: ignore[attr-defined]
    assert act.remote(1) == 1


def test_only_the_input_that_is_over_its_time_limit_times_out() -> None:
    function = chunk_code.act_in_time
    learn(function)
    inputs: list[Any] = list(range(200))
    inputs[60] = ("sleep", 30)
    outputs = list(function.map(inputs, return_exceptions=True))
    assert isinstance(outputs[60], deepserve.FunctionTimeout)
    del outputs[60]
    assert outputs == [n for n in range(200) if n != 60]


def test_the_pod_dies_in_the_middle_of_a_chunk(tmp_path: Path) -> None:
    """The input that killed it is lost; those behind it have not been begun, and those before are told or run again."""
    learn(act_alone)
    inputs: list[Any] = list(range(300))
    inputs[70] = ("die", str(tmp_path / "died"))
    outputs = list(act_alone.map(inputs, return_exceptions=True))
    assert isinstance(outputs[70], deepserve.PodLost) and outputs[70].exit_code == -9
    assert [output for output in outputs if not isinstance(output, deepserve.PodLost)] == [
        n for n in range(300) if n != 70
    ]


def test_retries_and_pod_losses_count_for_the_input_alone(tmp_path: Path) -> None:
    function = chunk_code.act_again
    assert list(function.map(range(300)))[-1] == (299, 1)
    inputs: list[Any] = list(range(100))
    inputs[10] = "flaky"
    inputs[50] = ("die", str(tmp_path / "died"))
    outputs = list(function.map(inputs))
    assert outputs[10] == ("flaky", 3) and outputs[50] == (inputs[50], 2)
    assert all(attempt == 1 for do, attempt in outputs[51:]), "what was behind it was not begun"


def test_no_input_runs_twice_without_being_counted(tmp_path: Path) -> None:
    learn(act)
    log = tmp_path / "log"
    inputs: list[Any] = [("where", str(log))] * 300
    inputs[100] = ("sleep", 0.1)
    keys = list(act.map(inputs))
    assert len(set(keys)) == 300  # an idempotency key each
    begun = [tuple(line.split()) for line in log.read_text().splitlines()]
    assert len(begun) == len(set(begun)) == 299


def test_large_results_calls_inside_and_methods() -> None:
    learn(act)
    inputs: list[Any] = list(range(100))
    inputs[5], inputs[50], inputs[51] = ("large", 600_000), ("call", 7), ("call", 8)
    outputs = list(act.map(inputs))
    assert len(outputs[5]) == 600_000 and outputs[50:53] == [7, 8, 52]
    actor = chunk_code.Actor()
    assert list(actor.act.map(range(500))) == list(range(500))


def test_async_functions_take_chunks_too(frames: list[int]) -> None:
    function = chunk_code.act_later
    learn(function)
    inputs: list[Any] = list(range(500))
    inputs[50], inputs[60] = ("raise", "no"), ("sleep", 0.05)
    outputs = list(function.map(inputs, return_exceptions=True))
    assert isinstance(outputs[50], Odd) and outputs[60] == ("sleep", 0.05) and outputs[61:] == list(range(61, 500))
    assert max(frames) > 1

    async def main() -> list[Any]:
        return [output async for output in function.map.aio(range(300))]

    assert asyncio.run(main()) == list(range(300))


def test_leaving_early_stops_what_is_on_the_pods() -> None:
    learn(act)
    for output in act.map([*range(100), *[("sleep", 60)] * 50]):
        if output == 50:
            break
    assert act.remote(1) == 1


def test_inputs_are_read_no_further_than_the_window() -> None:
    learn(act)
    read: list[int] = []

    def inputs() -> Iterator[int]:
        read.clear()
        for number in range(5_000):
            read.append(number)
            yield number

    for output in act.map(inputs()):
        assert read[-1] <= output + 1000
    outputs = act.map(inputs(), max_in_flight=7)
    for output in outputs:
        assert read[-1] <= output + 7
        if output == 500:
            break
    outputs.close()  # type: ignore[attr-defined]


def test_pages_of_what_has_begun_go_with_their_pods(tmp_path: Path) -> None:
    learn(act_alone)
    folder = current_client().welcome.segments
    pages = {name for name in os.listdir(folder) if name.startswith(".begun-")}
    assert pages
    inputs = [*range(50), ("die", str(tmp_path / "died"))]
    outputs = list(act_alone.map(inputs, return_exceptions=True))
    assert isinstance(outputs[-1], deepserve.PodLost)
    assert not pages <= {name for name in os.listdir(folder) if name.startswith(".begun-")}
