"""User code that mypy --strict must see through; run by test_typing.py, never imported."""

from collections.abc import AsyncIterator, Iterator
from typing import assert_type

import deepserve
from deepserve import Call, Ref

app = deepserve.App("papers")


@deepserve.function
def square(x: int) -> int:
    return x * x


@app.function(
    cpu=1,
    memory=512,
    timeout=30,
    min_pods=0,
    max_pods=8,
    buffer_pods=0,
    scaledown_window=60,
    retries=deepserve.Retries(max_retries=3, initial_delay=0.2, jitter=True, on=(ConnectionError,)),
)
def fetch(url: str, *, pages: int = 10) -> str:
    return url * pages


@app.function
@deepserve.concurrent(max_inputs=4)
async def later(x: int) -> str:
    return str(x)


@deepserve.function
def tokens(n: int) -> Iterator[str]:
    yield str(n)


@app.function()
async def async_tokens(n: int) -> AsyncIterator[bytes]:
    yield bytes(n)


@deepserve.function
def total(numbers: list[int]) -> int:
    return sum(numbers)


@deepserve.cls(scaledown_window=120)
@deepserve.concurrent(max_inputs=32)
class Ranker:
    model: str = deepserve.parameter(default="small")

    @deepserve.enter(snap=True)
    def load(self) -> None:
        self.size = len(self.model)

    @deepserve.method()
    def score(self, q: str, doc: str) -> float:
        return float(len(q) + len(doc) + self.size)

    @deepserve.method()
    async def score_later(self, q: str) -> int:
        return len(q)

    @deepserve.method()
    def words(self, q: str) -> Iterator[str]:
        yield q

    @deepserve.exit()
    def close(self) -> None: ...


@app.local_entrypoint()
def main(n: int = 10) -> None:
    assert_type(square(3), int)
    assert_type(square.local(3), int)
    assert_type(square.remote(n), int)
    assert_type(square.spawn(n), Call[int])
    assert_type(square.spawn(n).get(timeout=1), int)
    assert_type(square.map(range(n)), Iterator[int])
    assert_type(list(fetch.starmap([("u",), ("v",)])), list[str])
    assert_type(fetch.remote("u", pages=3), str)
    assert_type(later.remote(3), str)
    assert_type(tokens(3), Iterator[str])
    assert_type(tokens.remote(3), Iterator[str])
    assert_type(tokens.remote.aio(3), AsyncIterator[str])
    assert_type(async_tokens.remote(3), Iterator[bytes])
    assert_type(square.with_options(memory=2048, timeout=5).remote(3), int)
    assert_type(deepserve.put([1, 2]), Ref[list[int]])
    assert_type(total.remote(deepserve.put([1, 2]).arg), int)
    assert_type(square.remote(square.spawn(3).arg), int)
    ranker = Ranker(model="large")
    assert_type(ranker.score("q", "d"), float)
    assert_type(ranker.score.remote("q", "d"), float)
    assert_type(ranker.score_later.remote("q"), int)
    assert_type(ranker.words.remote("q"), Iterator[str])


async def twins() -> None:
    assert_type(await square.remote.aio(3), int)
    assert_type(await later(3), str)
    assert_type(await later.remote.aio(3), str)
    assert_type(await (await square.spawn.aio(3)).get.aio(), int)
    async for item in square.map.aio(range(3)):
        assert_type(item, int)


def wrong() -> None:
    square.remote("x")  # type: ignore[arg-type]
    fetch.remote("u", page=3)  # type: ignore[call-arg]
    square.with_options(memry=3)  # type: ignore[call-arg]
    Ranker(modell="x")  # type: ignore[call-arg]
    Ranker().score.remote("q")  # type: ignore[call-arg]
