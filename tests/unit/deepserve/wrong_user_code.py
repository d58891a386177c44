"""User code in which mypy --strict and pyright must find an error on every marked line, and on no other."""

from collections.abc import AsyncIterator, Iterator
from typing import Any

import deepserve


@deepserve.function
def square(x: int) -> int:
    return x * x


@deepserve.function(timeout=3)
def fetch(url: str, *, pages: int = 10) -> str:
    return url * pages


@deepserve.function
def both(a: int, b: str) -> bytes:
    return b.encode() * a


@deepserve.function
async def later(x: int) -> str:
    return str(x)


@deepserve.function
def tokens(n: int) -> Iterator[str]:
    yield str(n)


@deepserve.function
async def async_tokens(n: int) -> AsyncIterator[bytes]:
    yield bytes(n)


@deepserve.function
@deepserve.batched(max_batch_size=8)
def embed(texts: list[str]) -> list[float]:
    return [0.0 for _ in texts]


@deepserve.cls
class Ranker:
    model: str = deepserve.parameter(default="small")
    depth: int = deepserve.parameter()

    @deepserve.method()
    def score(self, q: str, doc: str) -> float:
        return float(len(q) + len(doc))

    @deepserve.method()
    def words(self, q: str) -> Iterator[str]:
        yield q


def calls() -> None:
    square("x")  # error
    square.remote("x")  # error
    square.remote()  # error
    square.spawn(1, 2)  # error
    fetch.remote("u", page=3)  # error
    fetch.remote("u", 3)  # error
    _1: str = square.remote(3)  # error
    _2: str = square.spawn(3).get()  # error
    _3: int = later.remote(3)  # error
    square.spawn(3).get("soon")  # error
    square.spawn(3).cancel(now=True)  # error
    square.remote(square.spawn(3))  # error
    square.remote(deepserve.put("x").arg)  # error
    square.remot(3)  # error


def options() -> None:
    square.with_options(memry=3)  # error
    square.with_options(timeout="soon")  # error
    deepserve.function(max_pod=3)(square.local)  # error
    deepserve.Retries(3, on=ConnectionError)  # error
    tokens.with_options(replay="again")  # error


def streams() -> None:
    for item in tokens.remote(3):
        _1: int = item  # error
    for number, text in tokens.spawn(3).stream(with_offset=True):
        _2: str = number  # error
        _3: int = text  # error
    square.spawn(3).stream()  # error
    tokens.remote("x")  # error


def maps() -> None:
    square.map(["x"])  # error
    both.map([1], [2])  # error
    both.map([1])  # error
    square.map(["x"], return_exceptions=True)  # error
    _0: list[int] = list(square.map([1], return_exceptions=True))  # error
    both.starmap([(1, 2)])  # error
    square.map([1], max_inflight=3)  # error
    square.for_each(["x"])  # error
    _1: list[str] = list(square.map([1]))  # error
    later.map(["x"])  # error
    square.spawn_map(["x"])  # error
    both.spawn_map([1])  # error
    _2: list[str] = square.spawn_map([1]).get()  # error


def batches() -> None:
    embed(["x"])  # error
    embed.remote(3)  # error
    embed.map([3])  # error
    _1: str = embed.remote("x")  # error
    deepserve.batched(size=3)  # error


@deepserve.batched(max_batch_size=8)  # error
def not_of_lists(text: str) -> float:
    return 0.0


def classes() -> None:
    Ranker(modell="x", depth=1)  # error
    Ranker(model=3, depth=1)  # error
    Ranker(model="x")  # error
    ranker = Ranker(depth=1)
    ranker.score.remote("q")  # error
    ranker.score.remote("q", 3)  # error
    ranker.score.map(["q"], [3])  # error
    _1: int = ranker.score.remote("q", "d")  # error
    for word in ranker.words.remote("q"):
        _2: int = word  # error


async def twins() -> None:
    await square.remote.aio("x")  # error
    _1: str = await square.remote.aio(3)  # error
    _2: str = later(3)  # error
    for _item in square.map.aio([1]):  # error
        pass
    async for item in async_tokens.remote.aio(3):
        _3: str = item  # error
    square.map.aio(["x"])  # error


def names() -> Any:
    return deepserve.functoin  # error
