"""What test_values.py runs in pods."""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Iterator
from typing import Any

import numpy as np

import deepserve

app = deepserve.App("large-values")
Array = np.ndarray[Any, Any]


@app.function(max_pods=1)
def numbered(number: int, size: int = 100_000) -> Array:
    return np.full(size, float(number))


@app.function(max_pods=2)
def mean(array: Array) -> float:
    return float(array.mean())


@app.function(max_pods=1)
def same(value: Any) -> Any:
    return value


@app.cls(max_pods=1)
class Holder:
    """One pod that holds on to arguments after their calls, in every way that user code may."""

    @deepserve.enter()
    def begin(self) -> None:
        self.kept: dict[str, Array] = {}

    @deepserve.method()
    def keep(self, name: str, array: Array) -> float:
        self.kept[name] = array[10:]
        return float(array.mean())

    @deepserve.method()
    def mean(self, name: str) -> float:
        return float(self.kept[name].mean())

    @deepserve.method()
    def fail_with(self, array: Array) -> None:
        try:
            raise ValueError(array[0])
        except ValueError as error:
            self.error = error
            raise

    @deepserve.method()
    def failed_with(self) -> float:
        trace = self.error.__traceback__
        while trace is not None and "array" not in trace.tb_frame.f_locals:
            trace = trace.tb_next
        assert trace is not None
        return float(trace.tb_frame.f_locals["array"].mean())

    @deepserve.method()
    def fork_with(self, array: Array) -> None:
        """A child that looks at the argument whenever it is asked."""
        questions, answers = os.pipe(), os.pipe()
        if os.fork() == 0:
            os.close(questions[1])
            while os.read(questions[0], 1):
                os.write(answers[1], str(float(array.mean())).encode())
            os._exit(0)
        self.ask, self.answer = questions[1], answers[0]

    @deepserve.method()
    def ask_child(self) -> float:
        os.write(self.ask, b"?")
        return float(os.read(self.answer, 100))


@app.function(max_pods=1)
def die_with(array: Array) -> None:
    os.kill(os.getpid(), signal.SIGKILL)


@app.function(max_pods=1)
def pid_and(array: Array) -> tuple[int, Array]:
    return os.getpid(), array


@app.function(max_pods=1)
def too_much(num_bytes: int) -> bytes:
    return bytes(num_bytes)


@app.function(max_pods=1, memory=200)
def over_memory(num_mib: int) -> Array:
    return np.ones(num_mib << 17)


@app.function(max_pods=1)
def make_ref(number: int) -> deepserve.Ref[Array]:
    return deepserve.put(array_of(number))


@app.function(max_pods=1)
def read_refs(refs: list[deepserve.Ref[Array]]) -> list[float]:
    return [float(ref.get().mean()) for ref in refs]


@app.function(max_pods=1)
def pass_on(value: Any) -> Any:
    return value


@app.function(max_pods=1)
def wait_and_read(ref: deepserve.Ref[Array] | list[deepserve.Ref[Array]], path: str) -> float:
    """Reads when the file is there."""
    while not os.path.exists(path):
        time.sleep(0.01)
    return float(ref[0].get().mean()) if isinstance(ref, list) else float(np.asarray(ref).mean())


@app.function(max_pods=1)
def raise_ref(number: int) -> None:
    raise LookupError(deepserve.put(array_of(number)))


@app.cls(max_pods=1)
class RefKeeper:
    @deepserve.method()
    def keep(self, refs: list[deepserve.Ref[Array]]) -> None:
        self.refs = refs

    @deepserve.method()
    def mean(self) -> float:
        return float(self.refs[0].get().mean())

    @deepserve.method()
    def let_go(self) -> None:
        self.refs = []


@app.function(max_pods=1)
def stream_refs(n: int) -> Iterator[deepserve.Ref[Array]]:
    for number in range(n):
        yield deepserve.put(array_of(number))


def array_of(number: int) -> Array:
    return np.full(50_000, float(number))
