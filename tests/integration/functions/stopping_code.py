"""Code that is hard to stop, for test_stopping."""

from __future__ import annotations

import asyncio
import itertools
import os
import signal
import threading
import time
from pathlib import Path
from typing import Any

import deepserve

app = deepserve.App("stopping")


def note(folder: str, name: str, text: str = "") -> None:
    """A file that appears at once with all of its text: how the tests learn where the code is."""
    path = Path(folder, f".{name}.{os.getpid()}.{threading.get_ident()}")
    path.write_text(text or str(os.getpid()))
    path.rename(Path(folder, name))


def hold(how: str, folder: str = "", name: str = "") -> None:
    """Does not stop, in one of the ways in which code does not stop."""
    if how == "masks the signal":
        signal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGUSR1, signal.SIGTERM, signal.SIGINT])
        time.sleep(60)
    elif how == "replaces the handler":
        for number in (signal.SIGUSR1, signal.SIGTERM, signal.SIGINT):
            signal.signal(number, lambda *_: None)
        time.sleep(60)
    elif how == "swallows it":
        while True:
            try:
                time.sleep(0.05)
            except BaseException:
                continue
    elif how == "spins":
        try:
            while True:
                time.sleep(0.01)
        except deepserve.InputCancelled:
            note(folder, f"{name}-interrupted")
            raise
    elif how == "holds the interpreter":
        sum(itertools.repeat(1))
    elif how == "is stopped":
        os.kill(os.getpid(), signal.SIGSTOP)
        time.sleep(60)  # the signal may go to another thread first, and this one on for a moment
    else:
        time.sleep(60)


@app.function(max_pods=1, scaledown_window=1)
def stuck(how: str, folder: str) -> None:
    note(folder, "began")
    hold(how)


@app.function(max_pods=2, scaledown_window=1)
@deepserve.concurrent(max_inputs=3)
def one_of_several(how: str, folder: str, name: str) -> tuple[int, int]:
    """`wait`: until the file `go` is there. Notes each attempt in a file of its own. Returns pid and attempt."""
    attempt = deepserve.context().attempt
    note(folder, f"{name}-{attempt}")
    if how == "wait":
        while not Path(folder, "go").exists():
            time.sleep(0.01)
    else:
        hold(how, folder, name)
    return os.getpid(), attempt


@app.function(max_pods=1, scaledown_window=1)
@deepserve.concurrent(max_inputs=3)
async def coroutine_of_several(how: str, folder: str, name: str) -> int:
    note(folder, name)
    while how == "swallows it" or not Path(folder, "go").exists():
        try:
            await asyncio.sleep(0.01)
        except asyncio.CancelledError:
            continue
    return os.getpid()


@app.function(max_pods=1)
def polls(folder: str) -> str:
    note(folder, "began")
    was_cancelled = deepserve.cancelled()
    try:
        time.sleep(60)
    except deepserve.InputCancelled:
        note(folder, "polled", f"{was_cancelled} {deepserve.cancelled()}")
        raise
    return "slept"


@app.function(max_pods=1)
def cancels_itself() -> None:
    deepserve.Call.from_id(deepserve.context().request_id).cancel()
    time.sleep(60)


@app.function(max_pods=1)
def cancels(call_id: str) -> str:
    call = deepserve.Call.from_id(call_id)
    call.cancel()
    try:
        call.get(timeout=60)
    except deepserve.CallCancelled as error:
        return error.stopped
    return "it ended"


@app.function(max_pods=1)
async def coroutine(folder: str) -> None:
    note(folder, "began")
    try:
        await asyncio.sleep(60)
    except asyncio.CancelledError:
        note(folder, "cancelled", str(deepserve.cancelled()))
        raise


@app.function(max_pods=1, queue_timeout=0.5)
def single(folder: str) -> None:
    note(folder, "began")
    time.sleep(60)


@app.cls(startup_timeout=1, max_pods=1)
class SlowToLoad:
    how: str = deepserve.parameter(default="sleeps")

    @deepserve.enter()
    def load(self) -> None:
        hold(self.how)

    @deepserve.method()
    def run(self) -> None: ...


@app.function
def two_steps(n: int) -> Any:
    return one_step.remote(n - 1) if n else "bottom"


@app.function
def one_step(n: int) -> Any:
    return two_steps.remote(n - 1) if n else "bottom"


@app.function(retries=deepserve.Retries(1, initial_delay=0.01, pod_losses=2), max_pods=1)
def kills_its_pod(times: int, folder: str) -> tuple[int, str]:
    context = deepserve.context()
    note(folder, f"attempt-{context.attempt}", context.idempotency_key)
    if context.attempt <= times:
        os.kill(os.getpid(), signal.SIGKILL)
    return context.attempt, context.idempotency_key


class Never(ConnectionError):
    pass


@app.function(retries=deepserve.Retries(3, initial_delay=0.01, on=(ConnectionError,), never_on=(Never,)), max_pods=1)
def fails(kind: str) -> int:
    if deepserve.context().attempt < 3:
        raise (Never if kind == "never" else ConnectionError)(kind)
    return deepserve.context().attempt


@app.function(max_pods=2, timeout=40)
def tells_its_context(x: int) -> tuple[str, int, float | None]:
    context = deepserve.context()
    return context.idempotency_key, context.index, context.time_left_s


@app.function(max_pods=1, timeout=3)
def pid() -> int:
    return os.getpid()


@app.function(max_pods=1, scaledown_window=2)
def short_lived() -> int:
    return os.getpid()
