"""The limit: workers forked from one process that has all they need; with `torch` as its name, also that."""

from __future__ import annotations

import gc
import os
import signal
from collections.abc import Callable

from meeting import attend, numbers, samples, tell, timed

IS_TORCH = "torch" in os.environ.get("DEEPSERVE_BENCH_WITH", "")


def start(path: str, num_workers: int) -> Callable[[], list[int]]:
    pids = []
    for _ in range(num_workers):
        pid = os.fork()
        if pid == 0:
            attend(path)
            while True:
                signal.pause()
        pids.append(pid)
    return lambda: pids


def main() -> None:
    import cloudpickle  # noqa: F401
    import msgspec  # noqa: F401

    if IS_TORCH:
        os.environ["OMP_NUM_THREADS"] = "1"
        import torch  # noqa: F401
    gc.collect()
    gc.freeze()
    found = []
    for num_workers in numbers():
        took_s, pids = timed(num_workers, lambda path, num=num_workers: start(path, num))
        found += samples("limit: forks", "torch" if IS_TORCH else "plain", num_workers, took_s, pids)
        for pid in pids:
            os.kill(pid, signal.SIGKILL)
            os.waitpid(pid, 0)
    tell(found)


if __name__ == "__main__":
    main()
