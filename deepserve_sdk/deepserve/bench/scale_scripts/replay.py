"""A trace of a real service, replayed on an embedded controller: when first tokens come, and what engines cost.

Arguments: the model's shape, the trace, and how many seconds of it. The controller's policy is what
`DEEPSERVE_MODEL_POLICY` says, with the replay's speed behind it. Lengths are the trace's, divided by SHORTER.
"""

from __future__ import annotations

import asyncio
import math
import os
import sys
import threading
import time
from dataclasses import dataclass, field
from typing import NamedTuple

from first_token import known
from meeting import quantile, tell

import deepserve
from deepserve._current_client import current_client
from deepserve.protocol.model_io import CompletionInput, GenerationParams
from deepserve.protocol.specs import function_id
from deepserve_controller.simulator.traces import TraceRow, read_trace
from flowserve.bench.shapes import SHAPES, model_folder

BEGINS_S = {"conv": 40.0, "code": 30.0}
"""Of what is replayed: before, hardly anybody asks."""
EVERY, SHORTER = 5, 32
"""One request of so many is sent, so many times as short: two processor cores are no accelerator."""
MAX_PODS = 4
KEEP_S, REST_S = 60.0, 60.0
"""Before the replay's speed: DeepServe's scale-down window, and how long is looked on after the last request."""
LOOK_S = 0.02


class Answered(NamedTuple):
    """Times of the machine's monotonic clock, which the controller's are, too."""

    asked_s: float
    first_s: float
    pod_id: str


@dataclass
class Watch(threading.Thread):
    """When the model's pods got ready, looked at every so often."""

    model: str
    ready_s: dict[str, float] = field(default_factory=dict)

    def __post_init__(self) -> None:
        super().__init__(daemon=True)
        self._ends = threading.Event()

    __hash__ = threading.Thread.__hash__

    def run(self) -> None:
        while not self._ends.wait(LOOK_S):
            self.look()

    def look(self) -> float:
        """Seconds of all its pods together so far, those included that came and went between two looks."""
        view = current_client().query("function", {"function_id": self.model})
        for pod in view["pods"]:
            if pod["state"] == "bound":
                self.ready_s.setdefault(pod["pod_id"], pod["since_s"])
        return float(view["pod_s"])

    def stop(self) -> None:
        self._ends.set()
        self.join()


def main() -> None:
    shape, trace, seconds = SHAPES[sys.argv[1]], sys.argv[2], float(sys.argv[3])
    policy, _, speed = os.environ["DEEPSERVE_MODEL_POLICY"].partition("*")
    rows = rows_of(trace, seconds, float(speed))
    folder = model_folder(shape)
    known(folder)  # by this machine: whichever policy came first would convert it for all
    # The environment is there before anybody asks, the model is not.
    deepserve.Model("before", source=model_folder(SHAPES["toy"]), max_pods=1).generate("a", max_tokens=1)
    llm = deepserve.Model(shape.name, source=folder, max_pods=MAX_PODS, scaledown_window=KEEP_S / float(speed))
    model = defined(llm)
    watch = Watch(model)
    before_s = watch.look()
    watch.start()
    answers = asyncio.run(replayed(llm, rows))
    time.sleep(REST_S / float(speed))
    watch.stop()
    pod_s = watch.look() - before_s
    firsts_s = sorted(answer.first_s - answer.asked_s for answer in answers)
    # A pod that came and went between two looks was started for the request that it answered.
    num_cold = sum(watch.ready_s.get(answer.pod_id, math.inf) > answer.asked_s for answer in answers)
    who = "DeepServe" if policy == "deepserve" else policy
    found = {
        "p50": ("s", quantile(firsts_s, 0.5)),
        "p99": ("s", quantile(firsts_s, 0.99)),
        "cold": ("share", num_cold / len(answers)),
        "pods": ("pod s", pod_s),
    }
    tell(
        [{"work": f"{trace} {what}", "who": who, "unit": unit, "value": value} for what, (unit, value) in found.items()]
    )


def rows_of(trace: str, seconds: float, speed: float) -> list[TraceRow]:
    """Arrivals from the replay's begin on, lengths at least 1."""
    begin_s = BEGINS_S[trace]
    rows = [row for row in read_trace(f"azure_llm_2023_{trace}", begin_s + seconds) if row.arrival_s >= begin_s]
    return [
        TraceRow((row.arrival_s - begin_s) / speed, -(-row.input_tokens // SHORTER), -(-row.output_tokens // SHORTER))
        for row in rows[::EVERY]
    ]


def defined(llm: deepserve.Model) -> str:
    """Known to the controller, and with as many pods ready as it always has."""
    client = current_client()
    for definition in llm.definitions():
        client.define(definition)
    model = function_id(llm.spec)
    while True:
        view = client.query("function", {"function_id": model})
        if view["ready"] >= view["settings"]["min_pods"]:
            return model
        time.sleep(LOOK_S)


async def replayed(llm: deepserve.Model, rows: list[TraceRow]) -> list[Answered]:
    start_s = time.monotonic()

    async def one(number: int, row: TraceRow) -> Answered:
        await asyncio.sleep(start_s + row.arrival_s - time.monotonic())
        asked_s = time.monotonic()
        # No two prompts begin alike: the trace does not say.
        prompt = f"{number:04}" + " a" * max(0, row.input_tokens - 4)
        deltas = llm.to_pods.stream_aio(completion(prompt, row.output_tokens), "replay")
        first_s = 0.0
        async for _ in deltas:
            first_s = first_s or time.monotonic()
        finished = deltas._request.inbox.finished
        assert finished is not None and deltas.generated is not None
        return Answered(asked_s, first_s or time.monotonic(), finished.timings.pod_id)

    return await asyncio.gather(*(one(number, row) for number, row in enumerate(rows)))


def completion(prompt: str, num_tokens: int) -> CompletionInput:
    return CompletionInput(prompt, GenerationParams(max_tokens=num_tokens, temperature=0, ignore_eos=True))


if __name__ == "__main__":
    main()
