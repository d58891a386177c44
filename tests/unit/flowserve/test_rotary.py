"""Rotary tables against transformers' own functions, for every kind and both spellings of config.json."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from flowserve.layers.rotary import RotaryTable
from flowserve.models.config import read_model_config

Models = Callable[..., Path]
PAIRS = 8  # of the tiny Llama's heads

SCALINGS: dict[str, dict[str, Any]] = {
    "default": {},
    "linear": {"factor": 3.0},
    "dynamic": {"factor": 2.0},
    "llama3": {
        "factor": 8.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0, "original_max_position_embeddings": 64,
    },
    "yarn": {"factor": 4.0, "original_max_position_embeddings": 128},
    "yarn, own bounds": {"factor": 4.0, "beta_fast": 20.0, "beta_slow": 2.0, "original_max_position_embeddings": 90},
    "yarn, not truncated": {"factor": 2.5, "truncate": False, "original_max_position_embeddings": 200},
    "yarn, attention": {"factor": 4.0, "attention_factor": 0.8, "original_max_position_embeddings": 128},
    "yarn, mscale": {
        "factor": 40.0, "mscale": 0.707, "mscale_all_dim": 1.3, "original_max_position_embeddings": 64,
    },
    "longrope": {
        "short_factor": [1.0 + i / 7 for i in range(PAIRS)], "long_factor": [2.0 + i for i in range(PAIRS)],
        "original_max_position_embeddings": 128,
    },
    "longrope, attention": {
        "short_factor": [1.1] * PAIRS, "long_factor": [5.0] * PAIRS, "attention_factor": 1.25,
        "original_max_position_embeddings": 300,
    },
}  # fmt: skip


@pytest.mark.parametrize("spelling", ["old", "new"])
@pytest.mark.parametrize("name", SCALINGS)
@pytest.mark.parametrize("max_positions", [100, 512])
def test_tables_are_those_of_transformers(name: str, spelling: str, max_positions: int, models: Models) -> None:
    from transformers import AutoConfig
    from transformers.models.llama.modeling_llama import LlamaRotaryEmbedding

    kind = name.split(",")[0]
    if spelling == "new":
        fields = {"rope_theta": None, "rope_parameters": {"rope_type": kind, "rope_theta": 5000.0, **SCALINGS[name]}}
    else:
        fields = {"rope_theta": 5000.0, "rope_scaling": {"type": kind, **SCALINGS[name]} if SCALINGS[name] else None}
    folder = models("llama", **fields)
    rope = read_model_config(folder).rope
    table = RotaryTable(rope, max_positions)
    positions = torch.arange(max_positions)[None]
    cos, sin = LlamaRotaryEmbedding(AutoConfig.from_pretrained(folder))(torch.zeros(1), positions)
    assert table.rotary_dim == 2 * PAIRS and table.cos.dtype is table.sin.dtype is torch.float32
    torch.testing.assert_close(table.cos, cos[0, :, :PAIRS], atol=5e-5, rtol=0.0)
    torch.testing.assert_close(table.sin, sin[0, :, :PAIRS], atol=5e-5, rtol=0.0)


@pytest.mark.parametrize("kind", ["longrope", "su", "yarn"])
def test_the_old_names_of_phi(kind: str, models: Models) -> None:
    factors = {"short_factor": [1.5] * 6, "long_factor": [3.0] * 6}
    folder = models("phi3", rope_scaling={"type": kind, **factors}, partial_rotary_factor=0.75)
    rope = read_model_config(folder).rope
    assert (rope.kind, rope.rotary_dim, rope.original_max_positions) == ("longrope", 12, 4096)
    assert (rope.short_factors, rope.long_factors) == ((1.5,) * 6, (3.0,) * 6)


def test_yarn_gives_the_context_it_stretches_to(models: Models) -> None:
    scaling = {"rope_type": "yarn", "factor": 4.0, "original_max_position_embeddings": 512}
    assert read_model_config(models("qwen3", rope_scaling=scaling)).max_positions == 2048
