from __future__ import annotations

import inspect
from collections.abc import Iterator, Sequence
from typing import Any, get_type_hints

import pytest

import deepserve
from deepserve._entry import Batching
from deepserve.errors import BatchMismatch, InvalidOption


class Mine:
    pass


@deepserve.function
@deepserve.batched(max_batch_size=8, wait_ms=2)
def embed(texts: list[str], *, sizes: Sequence[int]) -> list[Mine]:
    """Says so."""
    return [Mine() for _ in texts]


def test_here_one_item_is_a_list_of_one() -> None:
    assert isinstance(embed("x", sizes=3), Mine)
    assert embed.__doc__ == "Says so."
    assert str(inspect.signature(embed)) == "(texts: 'str', *, sizes: 'int') -> 'Mine'"
    assert get_type_hints(embed._target) == {"texts": str, "sizes": int, "return": Mine}


def test_a_pod_holds_as_many_inputs_as_its_batches_take() -> None:
    scaling = embed.spec.scaling
    assert (scaling.max_inputs, scaling.max_batch_size) == (8, 8)

    @deepserve.function
    @deepserve.concurrent(max_inputs=2)
    @deepserve.batched(max_batch_size=3)
    def two(items: list[int]) -> list[int]:
        return items

    assert (two.spec.scaling.max_inputs, two.spec.scaling.max_batch_size) == (6, 3)

    @deepserve.cls
    class Model:
        @deepserve.method()
        @deepserve.batched(max_batch_size=5)
        def score(self, items: list[int]) -> list[int]:
            return items

        @deepserve.method()
        def plain(self) -> None: ...

    found: Any = Model
    scaling = found.__deepserve_definer__.define().spec.scaling
    assert (scaling.max_inputs, scaling.max_batch_size) == (5, 5)
    batching = Batching.of(Model().score)
    assert batching is not None and batching.target([3]) == [3]
    assert Model().score(4) == 4


def test_results_that_do_not_fit() -> None:
    @deepserve.batched(max_batch_size=2)
    def nothing(items: list[int]) -> list[int]:
        return []

    @deepserve.batched(max_batch_size=2)
    def single(items: list[int]) -> list[int]:
        return 3  # type: ignore[return-value]

    with pytest.raises(BatchMismatch, match="nothing returned 0 results for a batch of 1"):
        nothing(1)
    with pytest.raises(BatchMismatch, match="single returned int for a batch of 1"):
        single(1)


@pytest.mark.parametrize(
    ("given", "text"),
    [
        ({"max_batch_size": 0}, "max_batch_size=0"),
        ({"max_batch_size": 2.5}, "max_batch_size=2.5"),
        ({"max_batch_size": 2, "wait_ms": -1}, "wait_ms=-1"),
        ({"max_batch_size": 2, "size_fn": 3}, "size_fn=3"),
    ],
)
def test_wrong_options(given: dict[str, Any], text: str) -> None:
    def f(items: list[int]) -> list[int]:
        return items

    with pytest.raises(InvalidOption, match=text):
        deepserve.batched(**given)(f)


def test_what_cannot_be_batched() -> None:
    batched: Any = deepserve.batched(max_batch_size=2)

    def stream(items: list[int]) -> Iterator[int]:
        yield 1

    with pytest.raises(InvalidOption, match="is a generator"):
        batched(stream)
    with pytest.raises(InvalidOption, match="stands below"):
        batched(embed)
    with pytest.raises(InvalidOption, match="takes a function of lists"):
        batched(Mine)
    with pytest.raises(InvalidOption, match=r"Model\.score is batched: put @deepserve.method\(\) above it"):

        @deepserve.cls
        class Model:
            @batched
            def score(self, items: list[int]) -> list[int]:
                return items

            @deepserve.method()
            def plain(self) -> None: ...
