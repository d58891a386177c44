"""What the kill loop's load runs in pods. Each run of an input is noted, so that one that nobody counted is found."""

from __future__ import annotations

import asyncio
import os
import time
from collections.abc import Iterator

import deepserve

STARTUP_S = 8.0
"""A pod that is stopped by a signal while it starts or loads costs a call so long."""
RETRIES = deepserve.Retries(2, initial_delay=0.02, pod_losses=3)
LOSSES_ONLY = deepserve.Retries(0, pod_losses=5)

app = deepserve.App("kill-load")
RUNS = os.environ.get("KILL_LOAD_RUNS", "")


def note_run() -> None:
    """One line for each run of an input: its key and attempt. One write, so that lines stay whole."""
    context = deepserve.context()
    line = f"{context.idempotency_key} {context.attempt}\n".encode()
    descriptor = os.open(RUNS, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o600)
    try:
        os.write(descriptor, line)
    finally:
        os.close(descriptor)


# More pods than a burst, whose pods are forked from a template.
@app.function(timeout=3, startup_timeout=STARTUP_S, max_pods=6, scaledown_window=2)
def once(x: int, seconds: float) -> int:
    note_run()
    time.sleep(seconds)
    return x * x


@app.function(
    timeout=3, startup_timeout=STARTUP_S, max_pods=2, retries=deepserve.Retries(2, initial_delay=0.02, pod_losses=3)
)
def again(x: int, seconds: float) -> int:
    note_run()
    time.sleep(seconds)
    if deepserve.context().attempt == 1 and x % 5 == 0:
        raise ConnectionError(f"the first attempt of {x}")
    return x * x


@app.function(timeout=3, startup_timeout=STARTUP_S, max_pods=2)
def short(x: int) -> int:
    """Goes to its pods in chunks, with a longer one now and then."""
    note_run()
    if x % 97 == 0:
        time.sleep(0.03)
    return x * x


@app.function(timeout=3, startup_timeout=STARTUP_S, max_pods=2)
@deepserve.concurrent(max_inputs=4)
def beside_others(x: int, seconds: float, is_stubborn: bool = False) -> int:
    note_run()
    ends_at_s = time.monotonic() + seconds
    while time.monotonic() < ends_at_s:
        try:
            time.sleep(0.02)
        except BaseException:
            if not is_stubborn:
                raise
    return x * x


@app.function(timeout=3, startup_timeout=STARTUP_S, max_pods=2)
async def in_a_loop(x: int, seconds: float) -> int:
    note_run()
    await asyncio.sleep(seconds)
    return x * x


@app.function(timeout=4, startup_timeout=STARTUP_S, max_pods=2)
def counts(n: int, seconds: float) -> Iterator[int]:
    for number in range(n):
        time.sleep(seconds)
        yield number


@app.function(
    timeout=4, startup_timeout=STARTUP_S, max_pods=2, retries=deepserve.Retries(0, pod_losses=5), replay="resume"
)
def counts_on(n: int, seconds: float) -> Iterator[int]:
    for number in range(deepserve.resume_offset(), n):
        time.sleep(seconds)
        yield number


@app.function(timeout=6, startup_timeout=STARTUP_S, max_pods=3)
def nested(depth: int, x: int) -> int:
    note_run()
    return once.remote(x, 0.01) if depth == 0 else nested.remote(depth - 1, x)


@app.function(timeout=3, startup_timeout=STARTUP_S, max_pods=2)
def doubles(data: bytes) -> bytes:
    return data + data


@app.function(timeout=3, startup_timeout=STARTUP_S, max_pods=2)
@deepserve.batched(max_batch_size=8, wait_ms=5)
def together(xs: list[int]) -> list[int]:
    return [x * x for x in xs]


@app.cls(timeout=3, startup_timeout=STARTUP_S, max_pods=2)
class Store:
    factor: int = deepserve.parameter(default=1)

    @deepserve.enter(snap=True)
    def load(self) -> None:
        self.loaded = self.factor

    @deepserve.method()
    def scale(self, x: int) -> int:
        note_run()
        return x * self.loaded


@app.cls(timeout=3, startup_timeout=STARTUP_S, max_pods=3, scaledown_window=1)
class Table:
    """Its table is built once, in a template of its own that its pods are forked from."""

    @deepserve.enter(snap=True)
    def load(self) -> None:
        self.squares = [x * x for x in range(1000)]

    @deepserve.method()
    def square(self, x: int) -> int:
        note_run()
        return self.squares[x]
