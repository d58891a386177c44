"""A function beside a random generator of its own."""

import random

import deepserve
from tests.integration.functions.snapshot_code import meet

app = deepserve.App("own-generator")
numbers = random.Random()


@app.function(max_pods=8)
def draw(folder: str, num_calls: int) -> float:
    meet(folder, num_calls)
    return numbers.random()
