"""Whole steps in torch with quantised weights and KV cache against exact ones."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from flowserve import Engine, EngineConfig, SamplingParams
from flowserve.device.base import Runner
from flowserve.errors import CheckpointError
from flowserve.models.loader import load_model
from flowserve.scheduling.batch import Batch, ScheduledSequence
from tests.unit.flowserve.moved_blocks import logits_before_and_after

BLOCK = 8
PROMPT = [(7 * i) % 190 + 3 for i in range(60)]


def _runner(folder: Path, **options: Any) -> Runner:
    config = EngineConfig(cpu_backend="torch", num_threads=1, **options)
    loaded = load_model(folder, config)
    loaded.device.start(loaded, config)
    layout = loaded.device.kv_layout(loaded, 32, BLOCK, config)
    runner = loaded.device.runner(loaded, layout, 256, config)
    assert runner.storage.block_bytes == layout.block_bytes
    return runner


def _logits(runner: Runner, cuts: tuple[int, ...] = ()) -> torch.Tensor:
    rows, done = [], 0
    with torch.inference_mode():
        for cut in (*cuts, len(PROMPT)):
            count = min(cut, len(PROMPT) - done)
            entry = ScheduledSequence("a", done, count, (9, 2, 3, 4, 20, 1, 0, 5), count, 0, 0)
            rows.append(runner.run(Batch((entry,)), {"a": PROMPT}).values.clone())
            done += count
    return torch.cat(rows)


@pytest.mark.parametrize(
    ("options", "limit"),
    [
        ({"kv_cache_dtype": "int8"}, 0.04),
        ({"dtype": "bfloat16", "kv_cache_dtype": "float32"}, 0.04),
        ({"quantization": "int8"}, 0.12),
        ({"quantization": "int8", "kv_cache_dtype": "int8"}, 0.12),
        ({"quantization": "int8", "dtype": "bfloat16"}, 0.12),
        ({"quantization": "int4"}, 0.6),
    ],
)
@pytest.mark.parametrize(
    ("architecture", "config"),
    [
        ("llama", {"attention_bias": True, "mlp_bias": True, "tie_word_embeddings": True}),
        ("qwen3", {"head_dim": 22}),  # no whole number of words, for the cache's scales
        ("phi3", {}),
    ],
)
def test_rounded_storage_stays_near(
    models: Callable[..., Path], architecture: str, config: dict[str, Any], options: dict[str, Any], limit: float
) -> None:
    folder = models(architecture, **config)
    expected = _logits(_runner(folder))
    runner = _runner(folder, **options)
    whole = _logits(runner)
    assert 0 < float((whole - expected).norm() / expected.norm()) < limit
    cut = _logits(runner, (13, 1, 1, 20))
    assert float((cut - whole).norm() / whole.norm()) < 0.5 * limit


def test_blocks_of_whole_numbers_can_be_moved(models: Callable[..., Path]) -> None:
    runner = _runner(models(), kv_cache_dtype="int8")
    exact = _runner(models())
    assert runner.storage.block_bytes * 3 < exact.storage.block_bytes
    expected, moved = logits_before_and_after(runner, PROMPT[:24])
    assert torch.equal(moved, expected)


def test_keys_and_values_of_bfloat16_activations_may_be_kept_as_float32(models: Callable[..., Path]) -> None:
    half, whole = (_runner(models(), dtype="bfloat16", kv_cache_dtype=name) for name in ("auto", "float32"))
    assert whole.storage.block_bytes == 2 * half.storage.block_bytes
    # What bfloat16 rounds them to is what the activations are: the storage alone changes nothing.
    assert torch.equal(_logits(whole, (13, 1, 1, 20)), _logits(half, (13, 1, 1, 20)))


def test_int8_tokens_do_not_depend_on_the_batch(models: Callable[..., Path], engine: Callable[..., Engine]) -> None:
    prompts = {"a": PROMPT, "b": PROMPT[5:9], "c": PROMPT[:33]}

    def tokens(together: bool) -> dict[str, list[int]]:
        running = engine(cpu_backend="torch", quantization="int8", kv_cache_dtype="int8", block_size=4)
        result: dict[str, list[int]] = {name: [] for name in prompts}
        for group in [list(prompts)] if together else [[name] for name in prompts]:
            for name in group:
                running.add(name, prompts[name], SamplingParams(temperature=0.8, seed=3, max_tokens=12))
            while running.has_work:
                for output in running.step():
                    result[output.sequence_id] += output.token_ids
        return result

    assert tokens(together=True) == tokens(together=False)


@pytest.mark.parametrize("quantization", [None, "int8", "int4"])
@pytest.mark.parametrize("name", ["model.layers.1.mlp.up_proj.weight", "model.embed_tokens.weight", "lm_head.weight"])
def test_weights_that_are_not_finite_are_named(
    models: Callable[..., Path], tmp_path: Path, quantization: str | None, name: str
) -> None:
    from safetensors.torch import load_file, save_file

    for file in models().iterdir():
        (tmp_path / file.name).write_bytes(file.read_bytes())
    tensors = load_file(tmp_path / "model.safetensors")
    tensors[name][37, 11] = float("inf")
    save_file(tensors, tmp_path / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(CheckpointError, match=rf"{name}' holds NaN or infinity in row 37"):
        load_model(tmp_path, EngineConfig(cpu_backend="torch", quantization=quantization))
