"""Functions whose arguments are results of others."""

from __future__ import annotations

import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import deepserve

app = deepserve.App("dependencies")


class Boom(Exception):
    pass


@app.function(max_pods=2)
def add(x: int, y: int = 0) -> int:
    return x + y


@app.function(max_pods=2)
def waits_for(path: str, result: Any) -> Any:
    """`result`, once there is a file."""
    while not Path(path).exists():
        time.sleep(0.01)
    return result


@app.function
def fails(text: str) -> None:
    raise Boom(text)


@app.function
def runs(path: str, *arguments: Any) -> None:
    Path(path).touch()


@app.function
def large(size_bytes: int) -> bytes:
    return b"x" * size_bytes


@app.function
def size(data: bytes, call: Any = None) -> tuple[int, str]:
    return len(data), type(call).__name__


@app.function
def numbers(n: int) -> Iterator[int]:
    yield from range(n)


@app.function(max_pods=1)
def adds_by_calls(n: int) -> int:
    """On the only pod that there is, and one call deeper."""
    call = adds_one.spawn(0)
    for _ in range(n - 1):
        call = adds_one.spawn(call.arg)
    return call.get()


@app.function(max_pods=1)
def adds_one(x: int) -> int:
    return x + 1


@app.function(retries=deepserve.Retries(2, initial_delay=0.01))
def fails_once(path: str, data: bytes) -> int:
    if not Path(path).exists():
        Path(path).touch()
        raise Boom("the first time")
    return len(data)
