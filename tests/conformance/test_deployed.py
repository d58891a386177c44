"""Apps that other processes find by name; of engines that are there for more than one process."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator

import pytest

import deepserve
from deepserve._current_client import current_client
from deepserve.cli.deploy import deploy_app
from tests.conformance import user_code
from tests.conformance.conftest import Scripts, wait_until
from tests.conformance.user_code import Boom

pytestmark = pytest.mark.deploys


@pytest.fixture
def deployed() -> Iterator[None]:
    deploy_app(current_client(), user_code.app, "shop")
    yield
    current_client().query("stop_app", {"app": "shop"})


def test_functions_by_name(deployed: None) -> None:
    square = deepserve.Function.from_name("shop", "square")
    assert square.remote(3) == 9
    assert list(square.map(range(20))) == [n * n for n in range(20)]
    assert square.spawn(4).get(timeout=60) == 16
    assert asyncio.run(square.remote.aio(5)) == 25
    assert list(deepserve.Function.from_name("shop", "tokens").remote(3)) == ["t0", "t1", "t2"]
    with pytest.raises(Boom):
        deepserve.Function.from_name("shop", "raises").remote("x")
    with pytest.raises(TypeError, match="found by name"):
        square(3)


def test_classes_by_name(deployed: None) -> None:
    ranker = deepserve.Cls.from_name("shop", "Ranker")(model="large")
    assert ranker.score.remote("q") == ("large", 5, 1, "q")
    with pytest.raises(AttributeError, match="score"):
        ranker.scorn  # noqa: B018


def test_names_that_there_are_not_name_those_that_there_are(deployed: None) -> None:
    with pytest.raises(deepserve.NotFound, match="square"):
        deepserve.Function.from_name("shop", "circle")
    with pytest.raises(deepserve.NotFound, match="shop"):
        deepserve.Function.from_name("chop", "square")
    with pytest.raises(deepserve.NotFound, match="use Cls.from_name"):
        deepserve.Function.from_name("shop", "Ranker")


def test_the_bounds_of_a_pool(deployed: None) -> None:
    function = deepserve.Function.from_name("shop", "where")

    def num_pods() -> int:
        found = current_client().query("functions", {"app": "shop"})["functions"]
        return next(int(entry["num_pods"]) for entry in found if entry["name"] == "where")

    function.autoscaler.update(min_pods=2, max_pods=2)
    wait_until(lambda: num_pods() == 2)
    function.autoscaler.update(min_pods=0)


def test_another_process_finds_functions_and_calls(deployed: None, scripts: Scripts) -> None:
    call_id = scripts.run(
        "import deepserve\nprint(deepserve.Function.from_name('shop', 'square').spawn(12).id)\n"
    ).strip()
    assert deepserve.Call.from_id(call_id).get(timeout=60) == 144


def test_a_spawned_stream_is_read_on_by_another_process(deployed: None, scripts: Scripts) -> None:
    call = deepserve.Function.from_name("shop", "tokens").spawn(100)
    stream = call.stream()
    assert [next(stream) for _ in range(3)] == ["t0", "t1", "t2"]
    read_on = f"import deepserve\nprint(list(deepserve.Call.from_id({call.id!r}).stream(from_offset=97)))\n"
    assert scripts.run(read_on).strip() == "['t97', 't98', 't99']"


def test_a_stopped_app_is_found_no_more() -> None:
    deploy_app(current_client(), user_code.app, "brief")
    square = deepserve.Function.from_name("brief", "square")
    current_client().query("stop_app", {"app": "brief"})
    with pytest.raises(deepserve.NotFound):
        deepserve.Function.from_name("brief", "square")
    assert square.name if hasattr(square, "name") else square.__name__ == "brief/square"
