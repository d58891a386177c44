"""DeepServe, embedded: from one pod that is there to as many as calls come at once."""

from __future__ import annotations

import os
import time

from meeting import attend, numbers, samples, tell, timed

import deepserve
from deepserve._client import current_client

IS_TORCH = "torch" in os.environ.get("DEEPSERVE_BENCH_WITH", "")
if IS_TORCH:
    import torch  # noqa: F401

app = deepserve.App("bench-scale")
meet = app.function(name="meet", scaledown_window=600)(attend)


def main() -> None:
    found = []
    for num_workers in numbers():
        function = meet.with_options(max_pods=num_workers)
        timed(1, lambda path, function=function: _start(function, path, 1))
        if IS_TORCH:
            _wait_for_template(num_workers)
        took_s, pids = timed(num_workers, lambda path, function=function, num=num_workers: _start(function, path, num))
        found += samples("DeepServe", "torch" if IS_TORCH else "plain", num_workers, took_s, pids)
    tell(found)


def _start(function, path, num_workers):  # type: ignore[no-untyped-def]
    calls = [function.spawn(path) for _ in range(num_workers)]
    return lambda: [call.get() for call in calls]


def _wait_for_template(num_workers: int) -> None:
    """A function that takes long to import gets one after its first call."""
    ends_s = time.monotonic() + 60
    while num_workers > 1:
        status = current_client().query("status")
        if any(item["state"] == "ready" for item in status["templates"]):
            return
        assert time.monotonic() < ends_s, status["functions"]
        time.sleep(0.05)


if __name__ == "__main__":
    main()
