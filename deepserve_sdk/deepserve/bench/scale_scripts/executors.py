"""DeepServe, embedded: from one executor of a model to as many as are asked for, each of which has made tokens."""

from __future__ import annotations

import asyncio
import sys
import time
from typing import Any

from meeting import memory_mb, tell

import deepserve
from deepserve._current_client import current_client
from deepserve.protocol.specs import function_id
from flowserve.bench.shapes import SHAPES, model_folder

TIMEOUT_S = 120.0


def main() -> None:
    shape, numbers = SHAPES[sys.argv[1]], [int(text) for text in sys.argv[2:]]
    llm = deepserve.Model(shape.name, source=model_folder(shape), max_pods=max(numbers), scaledown_window=600)
    model = function_id(llm.spec)
    ask(llm, 1)
    found = []
    for number in numbers:
        scale(model, 1)
        step_s = min(timed(lambda: ask(llm, 1)) for _ in range(5))
        start_s = time.perf_counter()
        scale(model, number)
        ready_s = time.perf_counter() - start_s
        pods = ask_all(llm, model, number)
        took_s = time.perf_counter() - start_s
        private_mb, pss_mb = memory_mb([pod["pid"] for pod in pods])
        sample = {"who": "DeepServe", "unit": "s"}
        memory = {"private_mb": private_mb, "worker_pss_mb": pss_mb}
        found.append({"work": f"executors {number}", **sample, "value": took_s, **memory})
        if number == 2:
            found.append({"work": "second", **sample, "value": max(0.0, ready_s - step_s)})
    tell(found)


def ask(llm: deepserve.Model, number: int) -> None:
    """So many requests at once, of one token each."""

    async def all_of_them() -> None:
        await asyncio.gather(*(llm.generate.aio("a", max_tokens=1, temperature=0) for _ in range(number)))

    asyncio.run(all_of_them())


def ask_all(llm: deepserve.Model, model: str, number: int) -> list[dict[str, Any]]:
    """Requests, so many at once, until each executor has made a token: quick ones may answer two while another has
    none. The executors' pods."""
    client, ends_s = current_client(), time.monotonic() + TIMEOUT_S
    used: set[str] = set()
    while True:
        ask(llm, number)
        used |= {request["pod_id"] for request in client.query("requests", {"limit": 2 * number})["requests"]}
        pods = [pod for pod in client.query("status")["pods"] if pod["function_id"] == model]
        if all(pod["pod_id"] in used for pod in pods):
            return pods
        assert time.monotonic() < ends_s, "an executor was given nothing to do"


def scale(model: str, number: int) -> None:
    """To exactly so many executors, until all are ready."""
    client = current_client()
    client.query("scale", {"function_id": model, "min_pods": number, "max_pods": number})
    ends_s = time.monotonic() + TIMEOUT_S
    while True:
        view = client.query("function", {"function_id": model})
        if view["ready"] == number and len(view["pods"]) == number:
            return
        assert time.monotonic() < ends_s, view
        time.sleep(0.002)


def timed(work: object) -> float:
    start_s = time.perf_counter()
    work()  # type: ignore[operator]
    return time.perf_counter() - start_s


if __name__ == "__main__":
    main()
