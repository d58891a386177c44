"""Sixteen API keys at one executor, of which one floods it: when the others' first tokens come, and when it does not.

Arguments: the model's shape, and for how many seconds. The others ask at the same times for the same in both parts.
"""

from __future__ import annotations

import asyncio
import sys
from contextlib import suppress
from random import Random
from typing import NamedTuple
from urllib.parse import urlsplit

from gateway import Server, prompt_of, stream, whole
from meeting import quantile, tell

import deepserve
from deepserve._current_client import current_client
from deepserve_controller.simulator.traces import TraceRow, read_trace
from flowserve.bench.shapes import SHAPES, model_folder

NUM_OTHERS = 15
EVERY_S = 20.0
"""How often each of them asks, on average."""
NUM_AT_ONCE = 200
"""Requests of the one that floods; who gets an answer asks anew."""
AHEAD_S = 3.0
"""The flood begins so long before the others."""
SHORTER, MAX_PROMPT_TOKENS = 8, 250


class Asked(NamedTuple):
    at_s: float
    tenant: int
    row: TraceRow


def main() -> None:
    shape, seconds = SHAPES[sys.argv[1]], float(sys.argv[2])
    llm = deepserve.Model(shape.name, source=model_folder(shape), max_pods=1, scaledown_window=600)
    llm.generate("a", max_tokens=1)
    client = current_client()
    at = urlsplit(client.query("openai_address")["base_url"])
    assert at.hostname and at.port
    keys = [client.query("new_key", {"name": f"tenant {number}"})["key"] for number in range(NUM_OTHERS + 1)]
    servers = [Server("DeepServe", at.hostname, at.port, shape.name, key) for key in keys]
    found = []
    for who, has_flood in (("limit: without the flood", False), ("DeepServe", True)):
        firsts_s = sorted(asyncio.run(measured(servers, seconds, has_flood)))
        for what, share in (("p50", 0.5), ("p99", 0.99)):
            value = quantile(firsts_s, share)
            found.append({"work": f"tenants {what}", "who": who, "unit": "s", "value": value})
    tell(found)


async def measured(servers: list[Server], seconds: float, has_flood: bool) -> list[float]:
    """Seconds to the first token of each request of the others."""
    rows = read_trace("azure_llm_2023_conv")
    flood = [asyncio.ensure_future(asks_on(servers[0], rows, number)) for number in range(NUM_AT_ONCE * has_flood)]
    try:
        await asyncio.sleep(min(AHEAD_S, seconds))
        asked = asked_by_others(rows, seconds)
        # Other words in each part: what one has left in the cache must not help the other.
        return await asyncio.gather(*(one(servers[each.tenant], each, f"{has_flood:d}") for each in asked))
    finally:
        for each in flood:
            each.cancel()
        for each in flood:
            with suppress(asyncio.CancelledError):
                await each


def asked_by_others(rows: list[TraceRow], seconds: float) -> list[Asked]:
    random, asked = Random(1), []
    for tenant in range(1, NUM_OTHERS + 1):
        at_s = random.expovariate(1 / EVERY_S)
        while at_s < seconds:
            asked.append(Asked(at_s, tenant, random.choice(rows)))
            at_s += random.expovariate(1 / EVERY_S)
    return asked


async def one(server: Server, asked: Asked, start: str) -> float:
    """Seconds to the first token. start: of the prompt."""
    await asyncio.sleep(asked.at_s)
    return (await stream(server, *sizes(asked.row), f"{start} {asked.tenant} {asked.at_s}"))[0]


async def asks_on(server: Server, rows: list[TraceRow], number: int) -> None:
    turn = 0
    while True:
        turn += 1
        num_tokens, prompt_tokens = sizes(rows[(number + turn * NUM_AT_ONCE) % len(rows)])
        await whole(server, num_tokens, prompt_of(f"0 {number} {turn}", prompt_tokens))


def sizes(row: TraceRow) -> tuple[int, int]:
    """Tokens of the answer, and of the prompt."""
    return -(-row.output_tokens // SHORTER), min(-(-row.input_tokens // SHORTER), MAX_PROMPT_TOKENS)


if __name__ == "__main__":
    main()
