"""What a call costs: the machine's limit, the standard library's pool, and DeepServe, in one run.

Machines are shared and noisy, so the figures to compare are the ratios within one run.
"""

from __future__ import annotations

import os
import platform
import socket
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from dataclasses import asdict, dataclass
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import deepserve

WARM_UP_CALLS = 50

app = deepserve.App("bench-calls")


def local_noop(x: int) -> int:
    return x


@app.function(max_pods=2, min_pods=0)
def noop(x: int) -> int:
    return x


COLD_SCRIPT = """
import deepserve
@deepserve.function
def noop(x): return x
if __name__ == "__main__":
    assert noop.remote(3) == 3
"""


@dataclass(frozen=True)
class Measurement:
    work: str
    who: str
    unit: str
    median: float
    p99: float | None = None
    spread: tuple[float, float] | None = None


def one_by_one(call: Callable[[int], Any], num_calls: int) -> tuple[float, float]:
    """Median and 99th percentile of `call(i)` in microseconds, after a warm-up."""
    for i in range(WARM_UP_CALLS):
        call(i)
    took_us = []
    for i in range(num_calls):
        start_s = time.perf_counter()
        call(i)
        took_us.append((time.perf_counter() - start_s) * 1e6)
    took_us.sort()
    return statistics.median(took_us), took_us[int(len(took_us) * 0.99)]


def socket_ping_pong(num_calls: int) -> tuple[float, float]:
    """The floor: eight bytes there and back over a unix socket to a forked process."""
    here, there = socket.socketpair()
    pid = os.fork()
    if pid == 0:
        here.close()
        while data := there.recv(64):
            there.send(data)
        os._exit(0)
    there.close()

    def call(_: int) -> None:
        here.send(b"12345678")
        here.recv(64)

    try:
        return one_by_one(call, num_calls)
    finally:
        here.close()
        os.waitpid(pid, 0)


def warm_calls(num_calls: int) -> list[Measurement]:
    limit = socket_ping_pong(num_calls)
    with ProcessPoolExecutor(1, mp_context=get_context("spawn")) as pool:
        peer = one_by_one(lambda i: pool.submit(local_noop, i).result(), num_calls)
    ours = one_by_one(noop.remote, num_calls)
    return [
        Measurement("warm no-op call", who, "µs", median, p99)
        for who, (median, p99) in (
            ("limit: socket ping-pong", limit),
            ("ProcessPoolExecutor", peer),
            ("DeepServe", ours),
        )
    ]


def per_second(run: Callable[[], Any], num_calls: int, repeats: int) -> tuple[float, tuple[float, float]]:
    rates = []
    for _ in range(repeats):
        start_s = time.perf_counter()
        run()
        rates.append(num_calls / (time.perf_counter() - start_s))
    return statistics.median(rates), (min(rates), max(rates))


def mapped_calls(num_calls: int, repeats: int = 3) -> list[Measurement]:
    with ProcessPoolExecutor(2, mp_context=get_context("spawn")) as pool:
        list(pool.map(local_noop, range(100)))
        peer, peer_spread = per_second(lambda: list(pool.map(local_noop, range(num_calls))), num_calls, repeats)
    list(noop.map(range(100)))
    ours, our_spread = per_second(lambda: list(noop.map(range(num_calls))), num_calls, repeats)
    work = f"{num_calls:,} no-op calls by map, 2 pods"
    return [
        Measurement(work, "ProcessPoolExecutor", "calls/s", peer, spread=peer_spread),
        Measurement(work, "DeepServe", "calls/s", ours, spread=our_spread),
    ]


def fresh_scripts(repeats: int = 5) -> list[Measurement]:
    """From `python app.py` to its end, with one remote call in it."""
    with tempfile.TemporaryDirectory() as folder:
        ours, bare = Path(folder, "cold_call.py"), Path(folder, "bare.py")
        ours.write_text(COLD_SCRIPT)
        bare.write_text("pass\n")
        return [
            script_time("limit: bare Python", bare, repeats),
            script_time("DeepServe", ours, repeats),
        ]


def script_time(who: str, script: Path, repeats: int) -> Measurement:
    environment = {**os.environ, "DEEPSERVE_QUIET": "1"}
    took_s = []
    for _ in range(repeats):
        start_s = time.perf_counter()
        subprocess.run([sys.executable, str(script)], check=True, env=environment)
        took_s.append(time.perf_counter() - start_s)
    return Measurement("fresh script, one call", who, "s", statistics.median(took_s), spread=(min(took_s), max(took_s)))


def measure(num_calls: int = 2000, num_mapped: int = 10_000) -> dict[str, Any]:
    """All measurements, with what they were taken on."""
    found = [*warm_calls(num_calls), *mapped_calls(num_mapped), *fresh_scripts()]
    return {
        "bench": "calls",
        "taken": time.strftime("%Y-%m-%d"),
        "python": platform.python_version(),
        "cores": os.cpu_count(),
        "machine": machine_name(),
        "measurements": [asdict(item) for item in found],
    }


def machine_name() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return platform.machine()
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.machine()
