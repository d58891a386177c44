"""Generators that fail, hang, are slow or large, on purpose."""

from __future__ import annotations

import asyncio
import os
import signal
import time
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import deepserve

app = deepserve.App("streams")


class Boom(Exception):
    pass


@app.function
def numbers(n: int, size_bytes: int = 0) -> Iterator[object]:
    for number in range(n):
        yield (number, bytes(size_bytes)) if size_bytes else number


@app.function
def counted(path: str, n: int, size_bytes: int) -> Iterator[bytes]:
    """Writes down how far it has come."""
    for number in range(n):
        Path(path).write_text(str(number + 1))
        yield bytes(size_bytes)


@app.function
def in_a_burst_then_late(gate: str) -> Iterator[int]:
    yield from range(10)
    wait_for(gate)
    yield 10


def wait_for(path: str) -> None:
    while not Path(path).exists():
        time.sleep(0.01)


def first_time(path: str) -> bool:
    """True for the first who asks."""
    try:
        os.close(os.open(path, os.O_CREAT | os.O_EXCL))
    except FileExistsError:
        return False
    return True


# --- attempts ---------------------------------------------------------------------------------------------


def breaks_once(path: str, n: int, at: int, how: str, from_offset: int = 0, odd: bool = False) -> Iterator[int]:
    """0 to n; the first time it breaks off before item `at`. odd: the second time its items are others.

    Where it is killed, its reader has noted beside `path` that it has the items: an exception comes behind them anyway.
    """
    is_first = first_time(path)
    for number in range(from_offset, n):
        if is_first and number == at:
            if how == "killed":
                if at:
                    wait_for(path + ".taken")
                os.kill(os.getpid(), signal.SIGKILL)
            raise Boom("the first time")
        yield -number if odd and not is_first else number


RETRIES = deepserve.Retries(2, initial_delay=0.01)


@app.function(retries=RETRIES)
def plain(path: str, n: int, at: int, how: str) -> Iterator[int]:
    yield from breaks_once(path, n, at, how)


@app.function(retries=RETRIES, replay="resume")
def resumes(path: str, n: int, at: int, how: str) -> Iterator[int]:
    yield from breaks_once(path, n, at, how, deepserve.resume_offset())


@app.function(retries=RETRIES, replay="verify")
def verifies(path: str, n: int, at: int, how: str, odd: bool = False) -> Iterator[int]:
    yield from breaks_once(path, n, at, how, odd=odd)


@app.function(retries=RETRIES, replay="verify")
def ends_earlier(path: str) -> Iterator[int]:
    yield from breaks_once(path, 20, 10, "raises") if not Path(path).exists() else range(3)


@app.function(retries=RETRIES, replay="resume")
async def resumes_async(path: str, n: int, at: int, how: str) -> AsyncIterator[int]:
    for number in breaks_once(path, n, at, how, deepserve.resume_offset()):
        yield number


# --- the end ----------------------------------------------------------------------------------------------


@app.function
def tells_its_end(path: str, busy: bool) -> Iterator[int]:
    """What is raised in it, at its yield or in the middle of its work."""
    try:
        yield 0
        while busy:
            time.sleep(0.01)
        yield from range(1, 1_000_000)
    except GeneratorExit as end:
        Path(path).write_text(type(end).__name__)
        raise
    finally:
        Path(path + ".finally").touch()


@app.function
async def tells_its_end_async(path: str) -> AsyncIterator[int]:
    try:
        for number in range(1_000_000):
            yield number
    except GeneratorExit:
        Path(path).write_text("GeneratorExit")
        raise
    finally:
        Path(path + ".finally").touch()


@app.cls(max_pods=1)
@deepserve.concurrent(max_inputs=8)
class Both:
    @deepserve.method()
    def count(self, n: int) -> Iterator[int]:
        yield from range(n)

    @deepserve.method()
    async def count_async(self, n: int) -> AsyncIterator[int]:
        for number in range(n):
            await asyncio.sleep(0)
            yield number

    @deepserve.method()
    def tells_its_end(self, path: str) -> Iterator[int]:
        try:
            yield from range(1_000_000)
        finally:
            Path(path).touch()

    @deepserve.method()
    def pid(self) -> int:
        return os.getpid()


@app.function
def reads_others(n: int) -> Iterator[int]:
    """A stream of what it reads of two others, one of them spawned."""
    call = numbers.spawn(n)
    for one, other in zip(numbers.remote(n), call.stream(), strict=True):
        yield one + other


@app.function
def cannot_travel(n: int) -> Iterator[object]:
    yield from range(n)
    yield (number for number in range(3))


@app.function(idle_timeout=1.0)
def falls_silent(n: int) -> Iterator[int]:
    yield from range(n)
    time.sleep(60)
