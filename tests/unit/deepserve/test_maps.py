"""Maps against a controller in a thread: order, the window, and errors."""

from __future__ import annotations

import threading
from collections.abc import Iterator

import pytest

import deepserve
from deepserve import _map
from deepserve._client import Client
from deepserve._map import LARGEST_WINDOW, SMALLEST_WINDOW, window_of
from deepserve._map_outputs import MapOutputs
from deepserve.errors import (
    UnpicklableArgument,
)
from deepserve.protocol.messages import (
    CancelRequest,
    Message,
)
from deepserve.protocol.specs import Scaling
from tests.unit.deepserve.fake_controller import (
    FakeController,
    Reply,
    installed,
)

app = deepserve.App("fake")


@app.function
def square(x: int) -> int:
    return x * x


def test_map_yields_in_order_and_starmap_spreads() -> None:
    with installed(FakeController(lambda x, y=0: x * x + y)):
        assert list(square.map(range(200))) == [n * n for n in range(200)]
        assert list(square.starmap([(1, 2), (3, 4)])) == [3, 13]
        assert list(square.map([1, 2], kwargs={"y": 1})) == [2, 5]
        assert list(square.map([1, 2], [10, 20, 30])) == [11, 24]
        assert list(square.map([])) == []
        assert sorted(square.map(range(5), order_outputs=False)) == [0, 1, 4, 9, 16]


class Reversed(FakeController):
    """Answers a map's inputs that come together in pairs, the later one first."""

    def take(self, message: Message, payload: bytes) -> Iterator[Reply]:
        replies = list(super().take(message, payload))
        for start in range(0, len(replies), 2):
            yield from reversed(replies[start : start + 2])


def test_outputs_are_put_in_order_unless_that_is_not_wanted() -> None:
    with installed(Reversed(lambda x: x)):
        assert list(square.map(range(10))) == list(range(10))
    with installed(Reversed(lambda x: x)):
        assert list(square.map(range(4), order_outputs=False)) == [1, 0, 3, 2]


def test_inputs_are_read_no_further_than_the_window() -> None:
    read = []

    def inputs() -> Iterator[int]:
        for number in range(100):
            read.append(number)
            yield number

    with installed(FakeController(lambda x: x)):
        outputs = square.map(inputs(), max_in_flight=3)
        assert read == []
        for output in outputs:
            assert len(read) <= output + 3 + 1
        assert len(read) == 100


@pytest.mark.parametrize("order_outputs", [True, False])
def test_what_a_map_holds_does_not_grow_with_its_length(order_outputs: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    made: list[MapOutputs] = []

    class Noted(MapOutputs):
        def __init__(self, client: Client, label: str) -> None:
            super().__init__(client, label)
            made.append(self)

    monkeypatch.setattr(_map, "MapOutputs", Noted)
    with installed(FakeController(lambda x: x)):
        for number, _ in enumerate(square.map(range(500), max_in_flight=8, order_outputs=order_outputs)):
            if number == 400:
                [held] = made
                assert len(held.arrived) + len(held._many) + len(held._single) <= 16
        assert number == 499


def test_the_window_is_bounded() -> None:
    assert window_of(Scaling()) == SMALLEST_WINDOW
    assert window_of(Scaling(max_pods=100, max_inputs=2)) == 400
    assert window_of(Scaling(max_pods=4000)) == LARGEST_WINDOW


def failing(x: int) -> int:
    if x % 3 == 2:
        raise ValueError(x)
    return x


def test_an_exception_names_its_input_and_cancels_the_rest() -> None:
    with installed(controller := FakeController(failing)):
        taken = []
        with pytest.raises(ValueError) as caught:
            for output in square.map(range(1000), max_in_flight=5):
                taken.append(output)
        assert taken == [0, 1]
        assert caught.value.input_index == 2  # type: ignore[attr-defined]
        assert "input 2 of the map" in caught.value.__notes__
        controller.wait_for(CancelRequest)


def test_exceptions_may_be_returned() -> None:
    with installed(FakeController(failing)):
        outputs = list(square.map(range(6), return_exceptions=True))
        square.for_each(range(6), ignore_exceptions=True)
    assert [type(output) for output in outputs] == [int, int, ValueError, int, int, ValueError]
    assert outputs[5].input_index == 5  # type: ignore[attr-defined]


def test_leaving_a_map_or_a_failing_input_iterator_cancels() -> None:
    def broken() -> Iterator[int]:
        yield 1
        raise OSError("the file ended")

    with installed(controller := FakeController(lambda x: x)):
        for _ in square.map(range(1000)):
            break
        controller.wait_for(CancelRequest)
        with pytest.raises(OSError, match="the file ended"):
            list(square.map(broken()))
        controller.wait_for(CancelRequest, 2)
        with pytest.raises(UnpicklableArgument) as caught:
            list(square.map([1, threading.Lock()]))
        assert caught.value.input_index == 1  # type: ignore[attr-defined]
        controller.wait_for(CancelRequest, 3)
