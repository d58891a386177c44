"""DeepServe, embedded: from one pod that is there to as many as calls come at once."""

from __future__ import annotations

import os
import time

from meeting import attend, numbers, samples, tell, timed

import deepserve
from deepserve._current_client import current_client

IS_TORCH = "torch" in os.environ.get("DEEPSERVE_BENCH_WITH", "")
if IS_TORCH:
    import torch  # noqa: F401

app = deepserve.App("bench-scale")


@app.function(scaledown_window=600)
def meet(path: str) -> int:
    """Here, so that a pod imports this file, and with it torch."""
    return attend(path)


def main() -> None:
    found = []
    for number, num_workers in enumerate(numbers()):
        function = meet.with_options(max_pods=num_workers)
        timed(1, lambda path, function=function: _start(function, path, 1))
        if IS_TORCH:
            _wait_for_templates(number + 1)
        took_s, pids = timed(num_workers, lambda path, function=function, num=num_workers: _start(function, path, num))
        found += samples("DeepServe", "torch" if IS_TORCH else "plain", num_workers, took_s, pids)
    tell(found)


def _start(function, path, num_workers):  # type: ignore[no-untyped-def]
    calls = [function.spawn(path) for _ in range(num_workers)]
    return lambda: [call.get() for call in calls]


def _wait_for_templates(num_templates: int) -> None:
    """A function that takes long to import gets one after its first call."""
    ends_s = time.monotonic() + 120
    while True:
        status = current_client().query("status")
        if sum(item["state"] == "ready" for item in status["templates"]) == num_templates:
            return
        assert time.monotonic() < ends_s, status["functions"]
        time.sleep(0.05)


if __name__ == "__main__":
    main()
