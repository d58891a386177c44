"""The `.aio` twins under asyncio and trio, and the blocking verbs in IPython's cells."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import anyio
import pytest

import deepserve
from tests.integration.functions.user_code import Boom, Ranker, breaks_off, sleeps_long, square, tokens


@pytest.fixture(params=["asyncio", "trio"])
def backend(request: pytest.FixtureRequest) -> str:
    return str(request.param)


def test_every_twin(backend: str) -> None:
    async def main() -> None:
        assert await square.remote.aio(3) == 9
        assert [item async for item in tokens.remote.aio(3)] == ["t0", "t1", "t2"]
        assert [n async for n in square.map.aio(range(100))] == [n * n for n in range(100)]
        assert [n async for n in square.starmap.aio([(1,), (2,)])] == [1, 4]
        await square.for_each.aio(range(10))
        assert await (await square.spawn.aio(4)).get.aio(timeout=60) == 16
        stream = (await tokens.spawn.aio(2)).stream
        assert [pair async for pair in stream.aio(with_offset=True)] == [(0, "t0"), (1, "t1")]
        assert await Ranker(model="large").score.remote.aio("q") == ("large", 5, 1, "q")
        with pytest.raises(Boom):
            assert [item async for item in breaks_off.remote.aio(2)]

    anyio.run(main, backend=backend)


def test_inputs_that_come_slowly_hold_no_output_back(backend: str) -> None:
    async def main() -> None:
        come = anyio.Event()

        async def inputs():  # type: ignore[no-untyped-def]
            yield 2
            await come.wait()
            yield 3

        outputs = []
        with anyio.fail_after(20):
            async for output in square.map.aio(inputs()):
                outputs.append(output)
                come.set()
        assert outputs == [4, 9]

    anyio.run(main, backend=backend)


def test_waits_end_by_timeout_and_cancellation(backend: str) -> None:
    async def main() -> None:
        call = await sleeps_long.spawn.aio(60)
        with pytest.raises(TimeoutError):
            await call.get.aio(timeout=0.1)
        call.cancel()
        with pytest.raises(deepserve.CallCancelled):
            await call.get.aio(timeout=60)
        with anyio.move_on_after(0.2) as scope:
            await sleeps_long.remote.aio(60)
        assert scope.cancelled_caught

    anyio.run(main, backend=backend)


def test_blocking_verbs_are_refused_on_the_loop(backend: str) -> None:
    async def main() -> None:
        with pytest.raises(deepserve.AsyncUsageError, match=f"running {backend} event loop.*aio"):
            square.remote(3)

    anyio.run(main, backend=backend)


CELLS = """
import deepserve
@deepserve.function
def cube(x): return x ** 3

cube.remote(2)
import asyncio; await asyncio.sleep(0)
list(cube.map(range(3)))
async def inside(): return cube.remote(4)

await inside()
await cube.remote.aio(5)
cube.spawn(6).get()
"""


def test_verbs_block_in_cells_of_ipython(tmp_path: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-m", "IPython", "--no-banner", "--colors=NoColor", "--HistoryManager.enabled=False"],
        input=CELLS, capture_output=True, text=True, timeout=60, cwd=tmp_path,
    )  # fmt: skip
    printed = [line.partition("]: ")[2] for line in done.stdout.split("Out[")[1:]]
    assert [line.splitlines()[0] for line in printed] == ["8", "[0, 1, 8]", "64", "125", "216"], done
