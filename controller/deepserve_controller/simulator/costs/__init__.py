"""How long steps of an engine take: measured samples, and constants that are assumed where none is named.

`small.json`, `tiny.json`: the models by shape of `flowserve bench` (0.6B in int8, 14M in float32), by the steps of
`flowserve calibrate`, with one thread, whose processor time was counted: others used the machine meanwhile. Each file
says on which processor, and how far it is off. `flowserve calibrate --out FILE` makes another for the machine at hand.
"""

from __future__ import annotations

from importlib.resources import files
from pathlib import Path

import msgspec

from deepserve.protocol.prompt_blocks import BLOCK_TOKENS
from flowserve.cost_model import TERMS, CostModel
from flowserve.step_record import StepSetting

CHUNK_TOKENS = 512
_ASSUMED_MS = (20.0, 0.05, 0.25, 0.1, 1e-5, 1e-5, 0.05)
ASSUMED = CostModel(
    coefficients=dict(zip(TERMS, _ASSUMED_MS, strict=True)), knee=64,
    setting=StepSetting(chunk=CHUNK_TOKENS, block_size=BLOCK_TOKENS), hardware="none: assumed",
)  # fmt: skip
"""A small accelerator: steps of some 20 ms for few sequences, some 3,500 prompt tokens a second."""
SAMPLES = ("small", "tiny")
_TYPICAL = 1150, 250, 8
"""Tokens of a prompt and of its answer in the conversation trace, and how many sequences decode together."""


def read_cost(name: str) -> CostModel:
    """`assumed`, one of SAMPLES, or a file that `flowserve calibrate` or `fit-cost` wrote; StepLogError."""
    if name == "assumed":
        return ASSUMED
    if name in SAMPLES:
        return msgspec.json.decode(files(__name__).joinpath(f"{name}.json").read_bytes(), type=CostModel)
    return CostModel.load(Path(name))


def slower(cost: CostModel) -> float:
    """How many times as long a typical request keeps its engine as under the assumed one: arrivals that are so much
    rarer are the same load."""
    return _typical_ms(cost) / _typical_ms(ASSUMED)


def _typical_ms(cost: CostModel) -> float:
    num_prompt, num_output, num_together = _TYPICAL
    decode_ms = cost.decode_ms([num_prompt + num_output // 2] * num_together) / num_together
    return cost.prefill_ms(num_prompt) + num_output * decode_ms
