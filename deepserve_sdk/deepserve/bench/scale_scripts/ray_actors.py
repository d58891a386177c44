"""Ray: as many actors."""

from __future__ import annotations

import os

import ray
from meeting import attend, numbers, samples, tell, timed


@ray.remote(num_cpus=0)
class Worker:
    def attend(self, path: str) -> int:
        return attend(path)


def main() -> None:
    ray.init(num_cpus=len(os.sched_getaffinity(0)), include_dashboard=False, logging_level="ERROR", log_to_driver=False)
    found = []
    for num_workers in numbers():
        workers = []

        def start(path: str, num: int = num_workers, workers: list = workers):  # type: ignore[no-untyped-def, type-arg]
            workers += [Worker.remote() for _ in range(num)]
            calls = [worker.attend.remote(path) for worker in workers]
            return lambda: ray.get(calls)

        took_s, pids = timed(num_workers, start)
        found += samples("Ray", "plain", num_workers, took_s, pids)
        for worker in workers:
            ray.kill(worker)
    tell(found)


if __name__ == "__main__":
    main()
