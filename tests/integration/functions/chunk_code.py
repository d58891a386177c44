"""What the tests of chunks run in pods. Inputs say what they do, so that one function's chunks hold unlike inputs."""

from __future__ import annotations

import asyncio
import os
import signal
import time
from pathlib import Path
from typing import Any

import deepserve

app = deepserve.App("chunks")


class Odd(Exception):
    pass


def _act(do: Any) -> Any:
    """`do` is an input's number, or an order with its argument."""
    if isinstance(do, int):
        return do
    match do:
        case "wait", path:
            while not Path(path).exists():
                time.sleep(0.005)
        case "raise", text:
            raise Odd(text)
        case "sleep", seconds:
            time.sleep(seconds)
        case "die", path:
            if not Path(path).exists():
                Path(path).touch()
                os.kill(os.getpid(), signal.SIGKILL)
        case "large", size_bytes:
            return bytes(size_bytes)
        case "call", number:
            return act.remote(number)
        case "print", text:
            print(text)
        case "where", path:
            with open(path, "a") as file:
                file.write(f"{deepserve.context().index} {deepserve.context().attempt}\n")
            return deepserve.context().idempotency_key
    return do


@app.function(max_pods=2)
def act(do: Any) -> Any:
    return _act(do)


@app.function(max_pods=1)
def act_alone(do: Any) -> Any:
    return _act(do)


@app.function(max_pods=1, timeout=1.5)
def act_in_time(do: Any) -> Any:
    return _act(do)


@app.function(max_pods=2)
async def act_later(do: Any) -> Any:
    if isinstance(do, tuple) and do[0] == "sleep":
        await asyncio.sleep(do[1])
        return do
    return _act(do)


tries: dict[str, int] = {}


@app.function(max_pods=1, retries=deepserve.Retries(2, initial_delay=0.01, jitter=False, on=(Odd,), pod_losses=1))
def act_again(do: Any) -> tuple[Any, int]:
    """Its attempt, beside what it gives."""
    if do == "flaky" and deepserve.context().attempt < 3:
        raise Odd("not yet")
    return _act(do), deepserve.context().attempt


@app.cls
class Actor:
    @deepserve.enter()
    def load(self) -> None:
        self.seen = 0

    @deepserve.method()
    def act(self, do: Any) -> Any:
        self.seen += 1
        return _act(do)
