"""What the tests of this folder run in pods."""

from __future__ import annotations

import asyncio
import os
import signal
import sys
import threading
import time
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Any

import deepserve

app = deepserve.App("conformance")


class Boom(Exception):
    pass


class Picky(Exception):
    """Cannot be pickled."""

    def __init__(self, text: str) -> None:
        super().__init__(text)
        self.lock = threading.Lock()


def note(folder: str, name: str, text: str = "") -> None:
    """A file that appears at once with all of its text: how the tests learn where the code is."""
    path = Path(folder, f".{name}.{os.getpid()}.{threading.get_ident()}")
    path.write_text(text or str(os.getpid()))
    path.rename(Path(folder, name))


# --- calls ------------------------------------------------------------------------------------------------


@app.function
def square(x: int) -> int:
    return x * x


@app.function
def join(first: str, *rest: str, between: str = "", **names: str) -> str:
    return between.join([first, *rest, *names, *names.values()])


@app.function
async def later(x: int) -> int:
    await asyncio.sleep(0.01)
    return x + 1


@app.function
def where() -> tuple[int, Any]:
    return os.getpid(), deepserve.context()


@app.function
def echo(value: Any) -> Any:
    return value


@app.function
def prints(text: str) -> None:
    print(text)
    print(text.upper(), file=sys.stderr)


@app.function(max_pods=1)
def waits_for_file(folder: str, name: str, result: Any = None) -> Any:
    """Notes that it began, and goes on when there is a file `name`."""
    note(folder, f"began-{name}")
    while not Path(folder, name).exists():
        time.sleep(0.01)
    return result


@app.function
@deepserve.concurrent(max_inputs=4)
def meets(folder: str, name: str, others: list[str]) -> int:
    """Returns when all the others are there as well."""
    note(folder, name)
    while not all(Path(folder, other).exists() for other in others):
        time.sleep(0.01)
    return os.getpid()


# --- streams ------------------------------------------------------------------------------------------------


@app.function
def tokens(n: int) -> Iterator[str]:
    yield from (f"t{i}" for i in range(n))


@app.function
async def async_tokens(n: int) -> AsyncIterator[int]:
    for i in range(n):
        yield i


@app.function(max_pods=1)
def counts(folder: str, n: int) -> Iterator[int]:
    """Notes how far it came, whenever it is held up or ends."""
    number = 0
    try:
        while number < n:
            note(folder, "count", str(number))
            yield number
            number += 1
    finally:
        note(folder, "ended", str(number))


@app.function
def large_items(n: int, size_bytes: int) -> Iterator[bytes]:
    yield from (bytes([i]) * size_bytes for i in range(n))


@app.function
def breaks_off(n: int) -> Iterator[int]:
    yield from range(n)
    raise Boom("after the last item")


def first_time(folder: str) -> bool:
    try:
        Path(folder, "first").touch(exist_ok=False)
    except FileExistsError:
        return False
    return True


def breaks_once(folder: str, n: int, at: int, how: str, from_offset: int = 0) -> Iterator[int]:
    """0 to n; the first time it breaks off before item `at`, when its reader has noted in `taken` that it has the rest.

    Where it is killed: an exception comes behind the items anyway.
    """
    is_first = first_time(folder)
    for number in range(from_offset, n):
        if is_first and number == at:
            if how == "killed":
                while at and not Path(folder, "taken").exists():
                    time.sleep(0.01)
                os.kill(os.getpid(), signal.SIGKILL)
            raise Boom("the first time")
        yield number


RETRIES = deepserve.Retries(2, initial_delay=0.01)


@app.function(retries=RETRIES)
def plain(folder: str, n: int, at: int, how: str) -> Iterator[int]:
    yield from breaks_once(folder, n, at, how)


@app.function(retries=RETRIES, replay="resume")
def resumes(folder: str, n: int, at: int, how: str) -> Iterator[int]:
    yield from breaks_once(folder, n, at, how, deepserve.resume_offset())


@app.function(retries=RETRIES, replay="verify")
def verifies(folder: str, n: int, at: int, how: str) -> Iterator[int]:
    yield from breaks_once(folder, n, at, how)


@app.function(retries=RETRIES, replay="verify")
def differs(folder: str) -> Iterator[int]:
    is_first = first_time(folder)
    yield from range(10) if is_first else range(9, -1, -1)
    if is_first:
        raise Boom("the first time")


@app.function(idle_timeout=1.0)
def falls_silent(n: int) -> Iterator[int]:
    yield from range(n)
    time.sleep(60)


# --- calls inside -------------------------------------------------------------------------------------------


@app.function(max_pods=2)
def fib(n: int) -> int:
    return n if n < 2 else fib.remote(n - 1) + fib.remote(n - 2)


@app.function(max_pods=2)
async def async_fib(n: int) -> int:
    return n if n < 2 else sum(await asyncio.gather(async_fib.remote.aio(n - 1), async_fib.remote.aio(n - 2)))


@app.function
def sums_squares(n: int) -> int:
    return sum(square.map(range(n)))


@app.function
def reads_tokens(n: int) -> list[str]:
    return list(tokens.remote(n))


@app.function
def fails_inside(text: str) -> None:
    raises.remote(text)


@app.function
def spawns_inside(x: int) -> tuple[int, str]:
    call = square.spawn(x)
    return call.get(timeout=60), call.status()


@app.function(max_pods=1)
def waits_for_child(folder: str) -> None:
    note(folder, "parent")
    sleeps.remote(folder, "child")


@app.function
def leaves_a_child(folder: str) -> str:
    sleeps.spawn(folder, "left")
    while not Path(folder, "left").exists():
        time.sleep(0.01)
    return "left"


@app.function(max_pods=2)
def endless(n: int) -> int:
    return endless.remote(n + 1)


@app.function(timeout=0.5, max_pods=1)
def short_of_time(folder: str) -> None:
    sleeps.remote(folder, "grandchild")


# --- stopping -----------------------------------------------------------------------------------------------


@app.function(max_pods=2)
def sleeps(folder: str, name: str) -> None:
    try:
        note(folder, name)
        time.sleep(60)
    except deepserve.InputCancelled:
        note(folder, f"{name}-stopped", str(deepserve.cancelled()))
        raise


@app.function(max_pods=1)
async def sleeps_async(folder: str, name: str) -> None:
    try:
        note(folder, name)
        await asyncio.sleep(60)
    except asyncio.CancelledError:
        note(folder, f"{name}-stopped")
        raise


@app.function(max_pods=1)
def holds_on(folder: str, name: str) -> None:
    """Swallows what is to stop it."""
    is_noted = False
    while True:
        try:
            if not is_noted:
                note(folder, name)
                is_noted = True
            time.sleep(0.05)
        except BaseException:
            continue


@app.function(max_pods=1, timeout=0.3)
def over_time() -> None:
    time.sleep(60)


@app.function(max_pods=1, queue_timeout=0.5)
def single(folder: str, name: str) -> None:
    note(folder, name)
    time.sleep(60)


@app.function
def slow(seconds: float) -> float:
    time.sleep(seconds)
    return seconds


# --- errors -------------------------------------------------------------------------------------------------


@app.function
def raises(text: str) -> None:
    try:
        {}["missing"]  # type: ignore[index]
    except KeyError as error:
        raise Boom(text) from error


@app.function
def raises_kind(kind: str) -> None:
    if kind == "picky":
        raise Picky("only there")
    raise {
        "SystemExit": SystemExit(3),
        "KeyboardInterrupt": KeyboardInterrupt("stop"),
        "GeneratorExit": GeneratorExit("gone"),
        "StopIteration": StopIteration("over"),
        "group": ExceptionGroup("two", [ValueError("one"), Boom("two")]),
    }[kind]


@app.function
def ends(how: str) -> None:
    if how == "exit":
        os._exit(3)
    os.kill(os.getpid(), signal.SIGKILL)


@app.function
def gives_a_lock() -> Any:
    return {"inside": threading.Lock()}


@app.function
def gives(size_bytes: int) -> bytes:
    return bytes(size_bytes)


# --- retries ------------------------------------------------------------------------------------------------


class Never(ConnectionError):
    pass


@app.function(retries=deepserve.Retries(2, initial_delay=0.01, on=(ConnectionError,), never_on=(Never,)))
def flaky(kind: str) -> tuple[int, str]:
    context = deepserve.context()
    if kind == "always" or context.attempt < 3:
        raise {"value": ValueError, "never": Never}.get(kind, ConnectionError)(f"attempt {context.attempt}")
    return context.attempt, context.idempotency_key


@app.function(retries=deepserve.Retries(0, pod_losses=2), max_pods=1)
def kills_its_pod(times: int) -> int:
    attempt = deepserve.context().attempt
    if attempt <= times:
        os.kill(os.getpid(), signal.SIGKILL)
    return attempt


# --- values -------------------------------------------------------------------------------------------------


@app.function
def fills(array: Any) -> int:
    array[:] = 1
    return int(array.sum())


@app.function
def lengths(refs: list[deepserve.Ref[Any]]) -> list[int]:
    return [len(ref.get()) for ref in refs]


@app.function
def length(value: Any) -> int:
    return len(value)


@app.function
def puts(size_bytes: int) -> deepserve.Ref[bytes]:
    return deepserve.put(bytes(size_bytes))


@app.function
def hands_on(value: Any) -> Any:
    return value


@app.function
def waits_and_counts(folder: str, refs: list[deepserve.Ref[Any]]) -> list[int]:
    while not Path(folder, "go").exists():
        time.sleep(0.01)
    return [len(ref.get()) for ref in refs]


@app.cls(max_pods=1)
class Keeper:
    def __init__(self) -> None:
        self.refs: list[deepserve.Ref[Any]] = []

    @deepserve.method()
    def keep(self, refs: list[deepserve.Ref[Any]]) -> int:
        self.refs = refs
        return len(refs)

    @deepserve.method()
    def read(self) -> list[int]:
        return [len(ref.get()) for ref in self.refs]


# --- batches and classes ------------------------------------------------------------------------------------


@app.function(max_pods=1)
@deepserve.batched(max_batch_size=4, wait_ms=20)
def shout(texts: list[str]) -> list[Any]:
    if "bad" in texts:
        raise Boom("bad in the batch")
    return [KeyError(text) if text == "worse" else text.upper() for text in texts]


@app.function
@deepserve.batched(max_batch_size=2, wait_ms=0)
def miscounts(texts: list[str]) -> list[str]:
    return [*texts, "one more"]


@app.cls
class Ranker:
    model: str = deepserve.parameter(default="small")

    @deepserve.enter(snap=True)
    def load(self) -> None:
        self.weights = len(self.model)
        self.num_entered = getattr(self, "num_entered", 0) + 1

    @deepserve.method()
    def score(self, query: str) -> tuple[str, int, int, str]:
        return self.model, self.weights, self.num_entered, query

    @deepserve.method()
    async def score_later(self, query: str) -> int:
        await asyncio.sleep(0)
        return len(query) * self.weights

    @deepserve.method()
    def words(self, query: str) -> Iterator[str]:
        yield from query.split()


@app.cls(max_pods=4)
class Snapshot:
    folder: str = deepserve.parameter(default="")

    @deepserve.enter(snap=True)
    def load(self) -> None:
        note(self.folder, f"loaded-{os.getpid()}")
        self.loaded_by = os.getpid()

    @deepserve.enter()
    def begin(self) -> None:
        self.begun_by = os.getpid()

    @deepserve.method()
    def meet(self, name: str, others: list[str]) -> tuple[int, int, int]:
        note(self.folder, name)
        while not all(Path(self.folder, other).exists() for other in others):
            time.sleep(0.01)
        return os.getpid(), self.loaded_by, self.begun_by


@app.cls(max_pods=1)
class Counter:
    def __init__(self, start: int, step: int = 1) -> None:
        self.count = start
        self.step = step

    @deepserve.method()
    def next(self) -> int:
        self.count += self.step
        return self.count


@app.cls(max_pods=1, scaledown_window=0.1)
class Farewell:
    folder: str = deepserve.parameter(default="")

    @deepserve.method()
    def greet(self) -> int:
        return os.getpid()

    @deepserve.exit()
    def close(self) -> None:
        note(self.folder, "closed")


@app.cls
class Broken:
    @deepserve.enter()
    def load(self) -> None:
        raise Boom("no weights")

    @deepserve.method()
    def run(self) -> None: ...


@app.cls(startup_timeout=0.5, max_pods=1)
class SlowToLoad:
    @deepserve.enter()
    def load(self) -> None:
        time.sleep(60)

    @deepserve.method()
    def run(self) -> None: ...
