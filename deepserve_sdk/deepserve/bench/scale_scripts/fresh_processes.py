"""The standard library: as many fresh processes."""

from __future__ import annotations

import os
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context

from meeting import attend, numbers, samples, tell, timed

IS_TORCH = "torch" in os.environ.get("DEEPSERVE_BENCH_WITH", "")
if IS_TORCH:
    import torch  # noqa: F401


def main() -> None:
    found = []
    for num_workers in numbers():
        with ProcessPoolExecutor(num_workers, mp_context=get_context("spawn")) as pool:

            def start(path: str, pool: ProcessPoolExecutor = pool, num: int = num_workers):  # type: ignore[no-untyped-def]
                calls = [pool.submit(attend, path) for _ in range(num)]
                return lambda: [call.result() for call in calls]

            took_s, pids = timed(num_workers, start)
            found += samples("ProcessPoolExecutor", "torch" if IS_TORCH else "plain", num_workers, took_s, pids)
    tell(found)


if __name__ == "__main__":
    main()
