"""Whole steps on the kernels against the same engine in torch."""

from __future__ import annotations

import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from flowserve import EngineConfig
from flowserve.device.base import Runner
from flowserve.device.cpu_kernels.library import KernelLibrary
from flowserve.models.loader import load_model
from flowserve.scheduling.batch import Batch, ScheduledSequence
from tests.unit.flowserve.moved_blocks import logits_before_and_after
from tests.waiting import wait_for

BLOCK = 8


def _runner(folder: Path, **options: Any) -> Runner:
    config = EngineConfig(**{"num_threads": 1, **options})
    loaded = load_model(folder, config)
    layout = loaded.device.kv_layout(loaded, 64, BLOCK, config)
    return loaded.device.runner(loaded, layout, 256, config)


def _prompts(lengths: list[int]) -> dict[str, list[int]]:
    random = np.random.default_rng(sum(lengths))
    return {str(i): random.integers(3, 200, length).tolist() for i, length in enumerate(lengths)}


def _logits(runner: Runner, prompts: dict[str, list[int]], cuts: list[int]) -> torch.Tensor:
    """Logits of all tokens of all prompts, computed in steps that each take `cuts[i]` tokens of each."""
    with torch.inference_mode():
        rows: dict[str, list[torch.Tensor]] = {name: [] for name in prompts}
        done = dict.fromkeys(prompts, 0)
        for cut in [*cuts, 10_000]:
            entries = []
            for index, (name, tokens) in enumerate(prompts.items()):
                count = min(cut, len(tokens) - done[name])
                if count < 1:
                    continue
                table = tuple(reversed(range(index * 8, index * 8 + 8)))  # not neighbours in order
                entries.append(ScheduledSequence(name, done[name], count, table, count, index, 0))
                done[name] += count
            if not entries:
                break
            step = runner.run(Batch(tuple(entries)), prompts)
            if step.best is not None:
                assert step.best == step.values.argmax(dim=-1).tolist()
            for entry, part in zip(entries, step.values.split([e.num_tokens for e in entries]), strict=True):
                rows[entry.sequence_id].append(part.clone())
        return torch.cat([torch.cat(parts) for parts in rows.values()])


def _distance(a: torch.Tensor, b: torch.Tensor) -> float:
    return float((a - b).abs().max() / b.abs().max())


@pytest.mark.parametrize(
    ("architecture", "config"),
    [
        ("llama", {}),
        ("llama", {"attention_bias": True, "hidden_size": 40, "intermediate_size": 50}),
        ("llama", {"num_key_value_heads": 1, "num_attention_heads": 3, "hidden_size": 60, "tie_word_embeddings": True}),
        ("qwen2", {"num_key_value_heads": 4}),
        ("qwen3", {"tie_word_embeddings": True, "head_dim": 40}),
    ],
)
@pytest.mark.parametrize("threads", [1, 3])
def test_exact_weights_give_the_logits_of_torch(
    models: Callable[..., Path], architecture: str, config: dict[str, Any], threads: int
) -> None:
    folder = models(architecture, **config)
    prompts = _prompts([1, 37, 5, 64, 16])
    expected = _logits(_runner(folder, cpu_backend="torch"), prompts, [])
    runner = _runner(folder, cpu_backend="extension", num_threads=threads)
    whole = _logits(runner, prompts, [])
    assert _distance(whole, expected) < 1e-4
    assert torch.equal(_logits(runner, prompts, [7, 1, 1, 20]), whole), "cuts change nothing, not even the rounding"
    runner.close()


@pytest.mark.parametrize("config", [{}, {"tie_word_embeddings": True}])
def test_a_float16_checkpoint_stays_in_its_bits_and_loses_nothing(
    models: Callable[..., Path], tmp_path: Path, config: dict[str, Any]
) -> None:
    from safetensors.numpy import load_file, save_file

    found = {}
    for dtype in (np.float16, np.float32):
        folder = Path(shutil.copytree(models("qwen3", **config), tmp_path / dtype.__name__))
        tensors = load_file(folder / "model.safetensors")
        halves = {name: values.astype(np.float16).astype(dtype) for name, values in tensors.items()}
        save_file(halves, folder / "model.safetensors", metadata={"format": "pt"})
        runner = _runner(folder, cpu_backend="extension")
        found[dtype] = _logits(runner, _prompts([30, 5]), [3]), runner._weights.file.entries["layers.0.down"].size_bytes
    (half, half_bytes), (whole, whole_bytes) = found.values()
    assert torch.equal(half, whole) and 2 * half_bytes == whole_bytes


@settings(max_examples=15, suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow])
@given(lengths=st.lists(st.integers(1, 64), min_size=1, max_size=6), cuts=st.lists(st.integers(1, 30), max_size=4))
def test_batches_and_cuts(models: Callable[..., Path], lengths: list[int], cuts: list[int]) -> None:
    prompts = _prompts(lengths)
    runner = _runner(models("qwen3"), cpu_backend="extension", num_threads=2)
    together = _logits(runner, prompts, cuts)
    for (name, tokens), rows in zip(prompts.items(), together.split(lengths), strict=True):
        assert torch.equal(_logits(runner, {name: tokens}, []), rows)


@pytest.mark.parametrize(
    ("options", "limit"),
    [
        ({"dtype": "bfloat16"}, 0.02),
        ({"kv_cache_dtype": "int8"}, 0.04),
        ({"quantization": "int8"}, 0.1),
        ({"quantization": "int8", "kv_cache_dtype": "float32"}, 0.1),
        ({"quantization": "int4"}, 0.6),
    ],
)
@pytest.mark.parametrize("architecture", ["llama", "qwen3"])
def test_rounded_storage_stays_near(
    models: Callable[..., Path], architecture: str, options: dict[str, Any], limit: float
) -> None:
    folder = models(architecture)
    prompts = _prompts([30, 64, 3])
    expected = _logits(_runner(folder, cpu_backend="torch"), prompts, [])
    runner = _runner(folder, cpu_backend="extension", **options)
    whole = _logits(runner, prompts, [])
    error = float((whole - expected).norm() / expected.norm())
    assert 0 < error < limit
    assert torch.equal(_logits(runner, prompts, [13, 1, 1]), whole)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("options", "limit"),
    [
        ({}, 1e-5),
        ({"quantization": "int8", "kv_cache_dtype": "float32"}, 1e-5),
        ({"quantization": "int4", "kv_cache_dtype": "float32"}, 1e-5),
        ({"kv_cache_dtype": "int8"}, 0.01),  # probabilities have 8 bits with VNNI and 12 without
    ],
    ids=str,
)
def test_other_processors(
    models: Callable[..., Path],
    other_library: KernelLibrary,
    options: dict[str, Any],
    limit: float,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    folder, prompts = models("qwen3"), _prompts([20, 9, 3])
    here = _logits(_runner(folder, cpu_backend="extension", **options), prompts, [])
    monkeypatch.setattr("flowserve.device.cpu_kernels.runner.kernel_library", lambda: other_library)
    there = _logits(_runner(folder, cpu_backend="extension", **options), prompts, [7])
    assert float((there - here).norm() / here.norm()) < limit


@pytest.mark.parametrize(
    "options", [{}, {"dtype": "bfloat16"}, {"quantization": "int8"}, {"quantization": "int4"}], ids=str
)
@pytest.mark.parametrize("layers", [1, 3, 5])
def test_more_threads_change_nothing(models: Callable[..., Path], options: dict[str, Any], layers: int) -> None:
    folder, prompts = models("qwen3", num_hidden_layers=layers), _prompts([50, 1, 20])
    alone = _logits(_runner(folder, cpu_backend="extension", **options), prompts, [])
    for threads in (2, 3):
        runner = _runner(folder, cpu_backend="extension", num_threads=threads, **options)
        for _ in range(3):
            assert torch.equal(_logits(runner, prompts, [9, 1]), alone)
        runner.close()


@pytest.mark.parametrize("options", [{}, {"kv_cache_dtype": "int8"}, {"cpu_backend": "torch"}], ids=str)
def test_what_a_block_held_before_does_not_matter(models: Callable[..., Path], options: dict[str, Any]) -> None:
    prompts = _prompts([19, 33])
    clean, dirty = (_runner(models(), **{"cpu_backend": "extension", **options}) for _ in range(2))
    for block in range(64):
        dirty.storage.write_block(block, memoryview(b"\xff" * dirty.storage.block_bytes))  # all NaN
    assert torch.equal(_logits(dirty, prompts, [7, 3, 1, 1]), _logits(clean, prompts, [7, 3, 1, 1]))


def test_a_team_without_threads_is_an_error(models: Callable[..., Path]) -> None:
    code = (
        "import resource, sys\n"
        "from tests.unit.flowserve.cpu_kernels.test_steps import _runner\n"
        "from pathlib import Path\n"
        "from flowserve.errors import FlowServeError\n"
        "import torch\n"
        "runner = _runner(Path(sys.argv[1]), cpu_backend='extension')\n"
        "used = int(Path('/proc/self/statm').read_text().split()[0]) * 4096\n"
        "resource.setrlimit(resource.RLIMIT_AS, (used + 2**28, used + 2**28))\n"
        "try:\n"
        "    _runner(Path(sys.argv[1]), cpu_backend='extension', num_threads=2000)\n"
        "except FlowServeError as error:\n"
        "    print(error)\n"
    )
    done = subprocess.run([sys.executable, "-c", code, str(models())], capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr
    assert "no memory or threads" in done.stdout


WHOLE_TILES = {"head_dim": 64, "hidden_size": 128, "intermediate_size": 192}
"""Sizes that the tiles of AMX take whole."""


@pytest.mark.slow
@pytest.mark.parametrize(
    "options", [{}, {"dtype": "bfloat16"}, {"quantization": "int8"}, {"kv_cache_dtype": "int8"}], ids=str
)
def test_rows_are_the_same_by_tiles_and_by_vectors(
    models: Callable[..., Path], other_library: KernelLibrary, options: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    """One token goes by vectors where many go by tiles; a row's logits do not show it."""
    folder, prompts = models("qwen3", **WHOLE_TILES), _prompts([41, 20, 3])
    here = _logits(_runner(folder, cpu_backend="extension", **options), prompts, [])
    assert torch.equal(_logits(_runner(folder, cpu_backend="extension", **options), prompts, [1, 17, 1, 2]), here)
    monkeypatch.setattr("flowserve.device.cpu_kernels.runner.kernel_library", lambda: other_library)
    runner = _runner(folder, cpu_backend="extension", **options)
    there = _logits(runner, prompts, [])
    assert torch.equal(_logits(runner, prompts, [1, 17, 1, 2]), there)
    assert float((there - here).norm() / here.norm()) < 0.06  # probabilities have 8 bits with VNNI and 12 without


def test_blocks_can_be_moved(models: Callable[..., Path]) -> None:
    """A sequence goes on from blocks that were copied, read out and written elsewhere."""
    for options in ({}, {"kv_cache_dtype": "int8"}):
        runner = _runner(models(), cpu_backend="extension", **options)
        expected, moved = logits_before_and_after(runner, list(range(10, 34)))
        assert torch.equal(moved, expected)


def test_closing_ends_the_threads(models: Callable[..., Path]) -> None:
    def threads() -> set[str]:
        return {path.name for path in Path("/proc/self/task").iterdir()}

    before = threads()
    runner = _runner(models(), cpu_backend="extension", num_threads=3)
    own = threads() - before
    assert len(own) == 2
    runner.close()
    runner.close()
    wait_for(lambda: not threads() & own)  # one that was joined is still listed for a moment


def test_logits_that_are_no_numbers_have_no_best(models: Callable[..., Path], tmp_path: Path) -> None:
    """Finite weights may overflow; the sequence ends with an error instead of token 0."""
    from safetensors.numpy import load_file, save_file

    folder = Path(shutil.copytree(models(), tmp_path / "model"))
    tensors = load_file(folder / "model.safetensors")
    tensors["model.layers.0.mlp.down_proj.weight"] = np.full_like(tensors["model.layers.0.mlp.down_proj.weight"], 3e38)
    save_file(tensors, folder / "model.safetensors", metadata={"format": "pt"})
    runner = _runner(folder, cpu_backend="extension")
    with torch.inference_mode():
        step = runner.run(Batch((ScheduledSequence("a", 0, 3, [0], 1, 0, 0),)), {"a": [5, 6, 7]})
    assert not step.values.isfinite().any()
    assert step.best == [-1]
