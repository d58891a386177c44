"""A script that ends, or is killed, in every state: what only it waited for ends too, and nothing of it is left."""

from __future__ import annotations

import os
import signal
from pathlib import Path

import pytest

import deepserve
from tests.conformance.conftest import Scripts, wait_for_file, wait_until
from tests.conformance.engines import Engine
from tests.waiting import TIMEOUT_S

APP = """
import os, sys, time, signal
from pathlib import Path
import deepserve

folder = sys.argv[1] if len(sys.argv) > 1 else ""

def note(folder, name):
    Path(folder, "." + name).write_text(str(os.getpid()))
    Path(folder, "." + name).rename(Path(folder, name))

@deepserve.function(max_pods=1)
def sleeps(folder):
    try:
        note(folder, "began")
        time.sleep(60)
    except deepserve.InputCancelled:
        note(folder, "stopped")
        raise

@deepserve.function(max_pods=1)
def counts(folder):
    try:
        for number in range(10_000_000):
            yield number
    finally:
        note(folder, "stopped")

@deepserve.function
def parent(folder):
    sleeps.remote(folder)

@deepserve.function
def gives(size_bytes):
    return bytes(size_bytes)

@deepserve.function
def length(value):
    return len(value)

if __name__ == "__main__":
"""

WAYS = {
    "a call": "sleeps.remote(folder)",
    "a call inside a call": "parent.remote(folder)",
    "a map": "list(sleeps.map([folder] * 20))",
    "a stream": "for _ in counts.remote(folder): note(folder, 'began')",
}


@pytest.mark.parametrize("how", [signal.SIGKILL, signal.SIGINT])
@pytest.mark.parametrize("what", WAYS)
def test_what_a_script_waited_for_ends_with_it(what: str, how: int, scripts: Scripts, tmp_path: Path) -> None:
    script = scripts.start(APP + "    " + WAYS[what])
    wait_for_file(tmp_path / "began")
    os.kill(script.pid, how)
    script.wait(TIMEOUT_S)
    wait_for_file(tmp_path / "stopped")


def test_a_script_that_is_killed_while_others_wait_behind_it(scripts: Scripts, tmp_path: Path) -> None:
    script = scripts.start(
        APP + "    import asyncio\n"
        "    async def main():\n"
        "        await asyncio.gather(*(sleeps.remote.aio(folder) for _ in range(300)))\n"
        "    asyncio.run(main())"
    )
    wait_for_file(tmp_path / "began")
    script.kill()
    script.wait(TIMEOUT_S)


def test_values_of_a_script_that_is_killed_go(engine: Engine, scripts: Scripts, tmp_path: Path) -> None:
    """Its refs, its arguments, and results on their way to it."""
    script = scripts.start(
        APP + "    ref = deepserve.put(bytes(3_000_000))\n"
        "    assert length.remote(ref) == length.remote(bytes(3_000_000)) == 3_000_000\n"
        "    results = gives.map([2_000_000] * 20)\n"
        "    next(results)\n"
        "    note(folder, 'began')\n"
        "    time.sleep(60)"
    )
    wait_for_file(tmp_path / "began")
    script.kill()
    script.wait(TIMEOUT_S)
    if not engine.is_private:
        wait_until(lambda: engine.leftovers() == [])


def test_a_script_killed_in_the_middle_of_a_large_argument(engine: Engine, scripts: Scripts, tmp_path: Path) -> None:
    script = scripts.start(
        APP + "    import threading\n"
        "    length.remote(b'')\n"
        "    for _ in range(3):\n"
        "        threading.Thread(target=lambda: length.remote(bytes(100_000_000)), daemon=True).start()\n"
        "    note(folder, 'began')\n"
        "    os.kill(os.getpid(), signal.SIGKILL)"
    )
    wait_for_file(tmp_path / "began")
    script.wait(TIMEOUT_S)
    if not engine.is_private:
        wait_until(lambda: engine.leftovers() == [])


def test_a_script_that_ends_well_says_goodbye(scripts: Scripts) -> None:
    out = scripts.run(
        APP + "    print(length.remote(bytes(2_000_000)), sum(1 for _ in zip(counts.remote(folder), range(5))))"
    )
    assert out.split() == ["2000000", "5"]


@pytest.mark.deploys
def test_spawned_calls_outlive_their_script(scripts: Scripts, tmp_path: Path) -> None:
    text = APP + "    print(length.spawn(bytes(300)).id, gives.spawn(10).id)"
    first, second = scripts.run(text).split()
    assert deepserve.Call.from_id(first).get(timeout=60) == 300
    assert deepserve.Call.from_id(second).get(timeout=60) == bytes(10)


def test_a_forked_child_of_a_script_is_no_client_of_it(scripts: Scripts) -> None:
    """It has a link of its own, and leaves its parent's alone when it ends."""
    out = scripts.run(
        APP + "    first = length.remote(b'abc')\n"
        "    child = os.fork()\n"
        "    if child == 0:\n"
        "        os._exit(length.remote(b'abcd'))\n"
        "    print(first, os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]), length.remote(b'abcde'))"
    )
    assert out.split() == ["3", "4", "5"]
