"""Large values: fast because their memory is used again, and never under somebody who still reads them."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
import threading
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import deepserve
from deepserve import settings
from deepserve._current_client import current_client
from tests.integration.functions.conftest import ScriptRunner, wait_until
from tests.integration.functions.large_values import (
    Holder,
    die_with,
    mean,
    numbered,
    over_memory,
    pid_and,
    same,
)


def array(number: int, size: int = 100_000) -> np.ndarray[Any, Any]:
    return np.full(size, float(number))


def pools(pid: int | str = "") -> list[str]:
    return [name for name in os.listdir(current_client().welcome.segments) if name.startswith(f".pool-{pid}")]


def test_held_results_stay_while_others_come() -> None:
    held = [numbered.remote(number) for number in range(3)]
    for number in range(1000):
        assert numbered.remote(number, 40_000)[-1] == number
    assert [float(got.mean()) for got in held] == [0, 1, 2]
    held[0][:] = 7  # each reader's own
    assert numbered.remote(0).mean() == 0 and held[0].mean() == 7


def test_arguments_that_a_pod_holds_stay_while_others_come() -> None:
    holder = Holder()
    assert holder.keep.remote("a", array(5)) == 5
    holder.fork_with.remote(array(6))
    with pytest.raises(ValueError):
        holder.fail_with.remote(array(7))
    for number in range(500):
        assert mean.remote(array(number)) == number
        assert holder.keep.remote("last", array(number)) == number
    assert holder.mean.remote("a") == 5
    assert holder.ask_child.remote() == 6
    assert holder.failed_with.remote() == 7


def test_results_that_are_their_arguments() -> None:
    first = array(1)
    for number in range(50):
        back = same.remote([first, first[::2], array(number)])
        assert back[0].mean() == back[1].mean() == 1 and back[2].mean() == number
    assert (first == 1).all()


def test_threads_send_and_take_side_by_side() -> None:
    wrong: list[int] = []

    def work(start: int) -> None:
        for number in range(start, start + 40):
            if same.remote(array(number, 50_000)).mean() != number or mean.remote(array(number)) != number:
                wrong.append(number)

    threads = [threading.Thread(target=work, args=(100 * number,)) for number in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert wrong == []


def test_memory_for_values_is_used_again() -> None:
    for number in range(60):
        numbered.remote(number, 1_000_000)
        mean.remote(array(number, 1_000_000))
    folder = Path(current_client().welcome.segments)
    assert sum((folder / name).stat().st_size for name in pools()) < 20 * 8_000_000


@pytest.mark.parametrize("make", [bytes, bytearray, lambda size: "x" * size])
def test_bytes_and_text_keep_their_type(make: Any) -> None:
    for size in (1000, 100_000, 3_000_000):
        back = same.remote(make(size))
        assert back == make(size) and type(back) is type(make(1))


def test_what_a_killed_pod_wrote_goes_with_it() -> None:
    pid, back = pid_and.remote(array(3))
    assert pools(pid) != []
    os.kill(pid, signal.SIGKILL)
    wait_until(lambda: pools(pid) == [])
    assert (back == 3).all()  # its reader keeps it
    with pytest.raises(deepserve.PodLost):
        die_with.remote(array(4))


def test_a_result_above_the_limit_is_a_typed_error(script: ScriptRunner) -> None:
    ran = script.run(f"import sys\nsys.path.insert(0, {str(Path(__file__).parent)!r})\n{ABOVE_THE_LIMIT}")
    assert ran.stdout == "ok\n", ran.stderr


ABOVE_THE_LIMIT = """
import os
os.environ["DEEPSERVE_MAX_VALUE_BYTES"] = "2000000"
import deepserve, pytest
from large_values import same, too_much

if __name__ == "__main__":
    with pytest.raises(deepserve.ValueTooLarge, match="3,000,0.* bytes; the limit is 2,000,000"):
        too_much.remote(3_000_000)
    with pytest.raises(deepserve.ValueTooLarge):
        same.remote(bytes(3_000_000))
    assert len(too_much.remote(1_000_000)) == 1_000_000
    print("ok")
"""


def test_a_pod_over_its_memory_while_it_makes_a_result() -> None:
    with pytest.raises((MemoryError, deepserve.PodLost), match="limit is 200 MiB|memory"):
        over_memory.remote(2000)
    assert over_memory.remote(10).nbytes == 10 << 20  # at once, while that pod ends
    held = []
    for _ in range(12):  # shared memory that is kept for results is not the function's
        held.append(over_memory.remote(40))
        assert held[-1].nbytes == 40 << 20
        del held[:-3]


FULL = """
import os
import deepserve, pytest
import numpy as np
from large_values import mean, numbered, same, too_much

def left():
    folder = deepserve._current_client.current_client().welcome.segments
    return [name for name in os.listdir(folder) if not name.startswith(".")]

if __name__ == "__main__":
    with pytest.raises(deepserve.ValueTooLarge, match="bytes of shared memory"):
        too_much.remote(60 << 20)
    with pytest.raises(deepserve.ValueTooLarge, match="bytes of shared memory"):
        same.remote(bytes(60 << 20))
    with pytest.raises(deepserve.ValueTooLarge, match="bytes of shared memory"):
        deepserve.put(bytes(60 << 20))
    assert left() == []
    for round in range(6):   # one side's idle files make room for the other's
        assert mean.remote(np.full(1_200_000 + 300_000 * round, 2.0)) == 2
        assert numbered.remote(3, 1_200_000 + 300_000 * round).mean() == 3
    held = []
    with pytest.raises(deepserve.ValueTooLarge, match="bytes of shared memory"):
        for number in range(100):
            held.append(numbered.remote(number, 500_000))
    assert len(held) >= 5 and all(got.mean() == number for number, got in enumerate(held))
    held.clear()
    assert numbered.remote(3, 2_000_000).mean() == 3
    print("ok")
"""


def test_full_shared_memory_is_a_typed_error_and_the_next_call_works(script: ScriptRunner) -> None:
    if shutil.which("unshare") is None or subprocess.run(["unshare", "-rm", "true"], capture_output=True).returncode:
        pytest.skip("needs a mount namespace")
    path = script.write(f"import sys\nsys.path.insert(0, {str(Path(__file__).parent)!r})\n{FULL}")
    small = f"mount -t tmpfs -o size=40m tmpfs /dev/shm && exec {sys.executable} {path}"
    ran = subprocess.run(
        ["unshare", "-rm", "sh", "-c", small], env=script.environment, capture_output=True, text=True, timeout=60
    )
    assert ran.stdout == "ok\n", ran.stderr


def test_the_limit_is_the_callers_too(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(settings, "_settings", settings.current_settings()._replace(max_value_bytes=1 << 20))
    with pytest.raises(deepserve.ValueTooLarge, match="the limit is 1,048,576"):
        same.remote(b"x" * (2 << 20))
