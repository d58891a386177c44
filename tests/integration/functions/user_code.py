"""What the tests of this folder run in pods."""

from __future__ import annotations

import asyncio
import itertools
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import AsyncIterator, Iterator
from typing import Any

import deepserve

app = deepserve.App("integration")


class Boom(Exception):
    pass


@app.function
def square(x: int) -> int:
    return x * x


@app.function
def where() -> tuple[int, deepserve._context.TaskContext]:
    return os.getpid(), deepserve.context()


@app.function
async def later(x: int) -> int:
    await asyncio.sleep(0.01)
    return x + 1


@app.function
def tokens(n: int) -> Iterator[str]:
    yield from (f"t{i}" for i in range(n))


@app.function(max_pods=1)
def endless() -> Iterator[int]:
    yield from itertools.count()


@app.function
def large(size_bytes: int) -> bytes:
    return bytes(size_bytes)


@app.function
def large_items(n: int) -> Iterator[bytes]:
    yield from (bytes([i]) * 400_000 for i in range(n))


@app.function
async def async_tokens(n: int) -> AsyncIterator[int]:
    for i in range(n):
        yield i


@app.function
def breaks_off(n: int) -> Iterator[int]:
    yield from range(n)
    raise Boom("after the last item")


@app.function(max_pods=2)
def fib(n: int) -> int:
    return n if n < 2 else fib.remote(n - 1) + fib.remote(n - 2)


@app.function(max_pods=2)
async def async_fib(n: int) -> int:
    return n if n < 2 else sum(await asyncio.gather(async_fib.remote.aio(n - 1), async_fib.remote.aio(n - 2)))


@app.function
def sums_children(n: int) -> int:
    return sum(square.map(range(n)))


@app.function(timeout=0.5, max_pods=1)
def sleeps(seconds: float) -> float:
    time.sleep(seconds)
    return seconds


@app.function
def sleeps_long(seconds: float) -> str:
    try:
        time.sleep(seconds)
    except deepserve.InputCancelled:
        return "swallowed"
    return "slept"


@app.function
def raises(text: str) -> None:
    def inner() -> None:
        raise Boom(text)

    try:
        {}["missing"]  # type: ignore[index]
    except KeyError as error:
        raise Boom(text) from error


@app.function
def ends(how: str) -> None:
    if how == "exit":
        os._exit(3)
    if how == "sys.exit":
        sys.exit(4)
    os.kill(os.getpid(), signal.SIGKILL)


@app.function
def gives_a_lock() -> Any:
    return {"inside": threading.Lock()}


@app.function
def prints(lines: int) -> int:
    for number in range(lines):
        print(f"line {number} " + "x" * 90)
    return lines


@app.function
def forks() -> list[int]:
    children = [subprocess.Popen(["sleep", "1000"]).pid for _ in range(2)]
    child = os.fork()
    if child == 0:
        time.sleep(1000)
    return [*children, child]


@app.function
def echo(value: Any) -> Any:
    return value


@app.function
def fills(array: Any) -> int:
    array[:] = 1
    return int(array.sum())


@app.function
def refs_inside(refs: list[deepserve.Ref[Any]]) -> list[int]:
    return [len(ref.get()) for ref in refs]


@app.function(retries=deepserve.Retries(3, initial_delay=0.01, jitter=False, on=(ConnectionError,)))
def flaky(kind: str) -> int:
    attempt = deepserve.context().attempt
    if kind == "always" or attempt < 3:
        raise (ValueError if kind == "value" else ConnectionError)(f"attempt {attempt}")
    return attempt


@app.cls(scaledown_window=5)
class Ranker:
    model: str = deepserve.parameter(default="small")

    @deepserve.enter(snap=True)
    def load(self) -> None:
        self.weights = len(self.model)
        self.entered = getattr(self, "entered", 0) + 1

    @deepserve.method()
    def score(self, q: str) -> tuple[str, int, int, str]:
        return self.model, self.weights, self.entered, q

    @deepserve.method()
    async def score_later(self, q: str) -> int:
        return len(q) * self.weights

    @deepserve.method()
    def words(self, q: str) -> Iterator[str]:
        yield from q.split()

    @deepserve.exit()
    def close(self) -> None:
        print("closed", self.model)


@app.cls
@deepserve.concurrent(max_inputs=4)
class Counter:
    def __init__(self, start: int, step: int = 1) -> None:
        self.count = start
        self.step = step

    @deepserve.method()
    def next(self) -> int:
        self.count += self.step
        return self.count


@app.cls
class Broken:
    @deepserve.enter()
    def load(self) -> None:
        raise Boom("no weights")

    @deepserve.method()
    def run(self) -> None: ...
