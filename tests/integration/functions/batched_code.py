"""Batched functions that tests of this folder run in pods. A batch of a function that waits long begins when full."""

from __future__ import annotations

import asyncio
import os
import time
from pathlib import Path

import deepserve

app = deepserve.App("batches")
LONG_MS = 600_000.0


@app.function(max_pods=1)
@deepserve.batched(max_batch_size=4, wait_ms=LONG_MS)
def together(texts: list[str], marks: list[str]) -> list[object]:
    """What each item was, the batch that it was in, and where. Raises for `bad`; an item `worse` fails by itself."""
    if "bad" in texts:
        raise ValueError(f"bad among {len(texts)}")
    return [
        KeyError(text) if text == "worse" else (text + mark, texts) for text, mark in zip(texts, marks, strict=True)
    ]


@app.function(max_pods=1)
@deepserve.batched(max_batch_size=4, wait_ms=0)
async def later(numbers: list[int], *, add: list[int]) -> list[int]:
    await asyncio.sleep(0.001)
    return [number + plus for number, plus in zip(numbers, add, strict=True)]


@app.function(max_pods=1)
@deepserve.batched(max_batch_size=3, wait_ms=LONG_MS)
def wrong(kinds: list[str]) -> list[str]:
    if kinds[0] == "short":
        return kinds[1:]
    return "text"  # type: ignore[return-value]


@app.function(max_pods=1)
@deepserve.batched(max_batch_size=3, wait_ms=LONG_MS)
def until(folders: list[str], names: list[str]) -> list[tuple[int, list[str]]]:
    """Says that it started, then waits for `go`."""
    folder = Path(folders[0])
    folder.joinpath("started").touch()
    while not folder.joinpath("go").exists():
        time.sleep(0.01)
    return [(os.getpid(), names)] * len(names)


@app.function(max_pods=1)
@deepserve.batched(max_batch_size=3, wait_ms=LONG_MS)
async def until_async(folders: list[str], names: list[str]) -> list[tuple[int, list[str]]]:
    folder = Path(folders[0])
    folder.joinpath("started").touch()
    while not folder.joinpath("go").exists():
        await asyncio.sleep(0.01)
    return [(os.getpid(), names)] * len(names)


@app.function(max_pods=1, timeout=4)
@deepserve.batched(max_batch_size=2, wait_ms=LONG_MS)
def stuck_once(folders: list[str], names: list[str]) -> list[tuple[str, int, bool]]:
    folder = Path(folders[0])
    if not folder.joinpath("started").exists():
        folder.joinpath("started").touch()
        time.sleep(600)
    return [(name, len(names), deepserve.cancelled()) for name in names]


@app.function(max_pods=1)
@deepserve.batched(max_batch_size=10, wait_ms=50, size_fn=len)
def by_size(texts: list[str]) -> list[list[str]]:
    return [texts] * len(texts)


@app.function(max_pods=1, retries=deepserve.Retries(1, initial_delay=0, on=(ConnectionError,)))
@deepserve.batched(max_batch_size=2, wait_ms=0)
def fails_once(folders: list[str]) -> list[int]:
    folder = Path(folders[0])
    if not folder.joinpath("started").exists():
        folder.joinpath("started").touch()
        raise ConnectionError("once")
    return [deepserve.context().attempt] * len(folders)


@app.cls(max_pods=1)
class Model:
    @deepserve.enter()
    def load(self) -> None:
        self.factor = 10
        self.running = 0

    @deepserve.method()
    @deepserve.batched(max_batch_size=4, wait_ms=LONG_MS)
    def scale(self, numbers: list[int]) -> list[tuple[int, int]]:
        return [(number * self.factor, len(numbers)) for number in numbers]

    @deepserve.method()
    def alone(self, number: int) -> int:
        """How many of it ran at once."""
        self.running += 1
        time.sleep(0.002)
        seen, self.running = self.running, self.running - 1
        return seen

    @deepserve.method()
    async def alone_async(self, number: int) -> int:
        self.running += 1
        await asyncio.sleep(0.002)
        seen, self.running = self.running, self.running - 1
        return seen


@app.function(max_pods=1)
@deepserve.batched(max_batch_size=2, wait_ms=LONG_MS)
def asks(folders: list[str], names: list[str]) -> list[str]:
    """Notes in `looked` whether it is cancelled, once there is `look`."""
    folder = Path(folders[0])
    folder.joinpath("started").touch()
    while not folder.joinpath("look").exists():
        time.sleep(0.01)
    folder.joinpath(".looked").write_text(str(deepserve.cancelled()))
    folder.joinpath(".looked").rename(folder / "looked")
    while not folder.joinpath("go").exists():
        time.sleep(0.01)
    return names
