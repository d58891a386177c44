"""Batched functions that the tests of this folder run in pods; a batch begins when it is full."""

from __future__ import annotations

import deepserve

app = deepserve.App("conformance-batched")


@app.function(max_pods=1)
@deepserve.batched(max_batch_size=4, wait_ms=600_000)
def together(texts: list[str], *, mark: list[str]) -> list[object]:
    """What each item was, and the batch that it was in. Raises for `bad`; an item `worse` fails by itself."""
    if "bad" in texts:
        raise ValueError(f"bad among {len(texts)}")
    pairs = zip(texts, mark, strict=True)
    return [KeyError(text) if text == "worse" else (text + mark, texts) for text, mark in pairs]


@app.function(max_pods=1)
@deepserve.batched(max_batch_size=2, wait_ms=600_000)
async def short(items: list[int]) -> list[int]:
    return items[1:]


@app.cls(max_pods=1)
class Scales:
    factor: int = deepserve.parameter(default=1)

    @deepserve.method()
    @deepserve.batched(max_batch_size=2, wait_ms=600_000)
    def weigh(self, numbers: list[int]) -> list[tuple[int, int]]:
        return [(number * self.factor, len(numbers)) for number in numbers]
