from __future__ import annotations

import asyncio
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.conformance import user_code
from tests.conformance.conftest import running_requests, wait_for_file, wait_until
from tests.conformance.user_code import Boom, square


def test_outputs_in_order_and_as_they_come() -> None:
    assert list(square.map(range(300))) == [n * n for n in range(300)]
    assert sorted(square.map(range(100), order_outputs=False)) == [n * n for n in range(100)]
    assert list(square.map([])) == []


def test_several_iterables_of_arguments() -> None:
    assert list(user_code.join.starmap([("a", "b"), ("c",)], kwargs={"between": "-"})) == ["a-b", "c"]
    square.for_each(range(10))


def test_an_order_that_the_pods_do_not_keep(tmp_path: Path) -> None:
    outputs = user_code.slow.map([0.3, 0.0, 0.0])
    assert list(outputs) == [0.3, 0.0, 0.0]


def test_an_exception_names_its_input() -> None:
    with pytest.raises(TypeError) as caught:
        list(square.map([1, 2, "three", 4]))  # type: ignore[list-item]
    assert caught.value.input_index == 2  # type: ignore[attr-defined]


def test_exceptions_among_the_outputs() -> None:
    outputs = list(square.map([1, "two", 3], return_exceptions=True))  # type: ignore[list-item]
    assert (outputs[0], outputs[2]) == (1, 9)
    assert isinstance(outputs[1], TypeError) and outputs[1].input_index == 1  # type: ignore[attr-defined]


def test_inputs_are_not_read_further_than_the_window() -> None:
    num_read = 0

    def inputs() -> Iterator[int]:
        nonlocal num_read
        for number in range(10_000):
            num_read += 1
            yield number

    outputs = square.map(inputs(), max_in_flight=10)
    for number in range(50):
        assert next(outputs) == number * number
        assert num_read <= number + 1 + 10
    outputs.close()  # type: ignore[attr-defined]


def test_leaving_the_loop_cancels_what_is_left(tmp_path: Path) -> None:
    for output in user_code.waits_for_file.starmap([(str(tmp_path), "go", 1), (str(tmp_path), "never", 2)]):
        assert output == 1
        break
    else:
        raise AssertionError("it gave nothing")
    wait_until(lambda: running_requests() == [])


@pytest.fixture(autouse=True)
def go(tmp_path: Path) -> None:
    (tmp_path / "go").touch()


def test_inputs_that_wait_for_outputs() -> None:
    """A crawl: what comes out is put in again."""
    found, outputs = [2], []
    more = threading.Event()
    more.set()

    def inputs() -> Iterator[int]:
        while True:
            more.wait(60)
            more.clear()
            if not found:
                return
            yield found.pop()

    for output in square.map(inputs()):
        outputs.append(output)
        if output < 200:
            found.append(output)
        more.set()
    assert outputs == [4, 16, 256]


def test_an_iterator_of_inputs_that_raises() -> None:
    def inputs() -> Iterator[int]:
        yield 3
        raise Boom("no more inputs")

    with pytest.raises(Boom, match="no more inputs"):
        list(square.map(inputs()))


def test_large_inputs_and_outputs() -> None:
    outputs = list(user_code.echo.map(bytes([n]) * 600_000 for n in range(8)))
    assert [(output[0], len(output)) for output in outputs] == [(n, 600_000) for n in range(8)]


def test_on_an_event_loop() -> None:
    async def main() -> None:
        assert [n async for n in square.map.aio(range(50))] == [n * n for n in range(50)]

        async def inputs():  # type: ignore[no-untyped-def]
            for n in range(5):
                await asyncio.sleep(0)
                yield n

        assert [n async for n in user_code.later.map.aio(inputs())] == [1, 2, 3, 4, 5]
        async for output in square.map.aio(range(10_000)):
            if output == 100:
                break

    asyncio.run(main())


def test_a_map_runs_on_several_pods(tmp_path: Path) -> None:
    names = ["a", "b"]
    function = user_code.meets.with_options(max_inputs=1, max_pods=2)
    assert len(set(function.starmap([(str(tmp_path), name, names) for name in names]))) == 2
    assert wait_for_file(tmp_path / "a")
