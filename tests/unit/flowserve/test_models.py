"""Greedy tokens and logits equal to transformers', alone, in mixed batches, in chunks and after preemption."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from flowserve import SamplingParams
from flowserve.models.config import read_model_config
from tests.tiny_models import make_model
from tests.unit.flowserve.running import ARCHITECTURES, run_to_end

PROMPTS = [
    [301, 48, 182],
    [5],
    list(range(3, 120)),
    [250, 9, 9, 9, 17, 350, 33, 78, 100, 101, 102, 103, 104, 105, 106, 107],
]
NUM_TOKENS = 40
GREEDY = SamplingParams(temperature=0.0, max_tokens=NUM_TOKENS, ignore_eos=True)
Models = Callable[..., Path]


@cache
def oracle(folder: Path) -> Any:
    from transformers import AutoModelForCausalLM

    model, info = AutoModelForCausalLM.from_pretrained(folder, output_loading_info=True, dtype=torch.float32)
    assert not info["missing_keys"] and not info["unexpected_keys"] and not info["mismatched_keys"]
    return model.eval()


@cache
def expected_tokens(folder: Path, prompt: tuple[int, ...], num_tokens: int = NUM_TOKENS) -> list[int]:
    torch.set_num_threads(1)
    ids = torch.tensor([prompt])
    output = oracle(folder).generate(
        ids, attention_mask=torch.ones_like(ids), max_new_tokens=num_tokens, do_sample=False, eos_token_id=None
    )
    return output[0, len(prompt) :].tolist()


def assert_greedy(engine: Any, folder: Path, prompts: list[list[int]] = PROMPTS) -> None:
    for index, prompt in enumerate(prompts):
        engine.add(str(index), prompt, GREEDY)
    results = run_to_end(engine)
    for index, prompt in enumerate(prompts):
        assert results[str(index)]["tokens"] == expected_tokens(folder, tuple(prompt)), f"prompt {index}"
        assert results[str(index)]["reason"] == "length"


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_alone(architecture: str, models: Models, engine: Callable[..., Any]) -> None:
    folder = models(architecture)
    each = engine(folder, enable_prefix_caching=False)
    for prompt in PROMPTS:
        assert_greedy(each, folder, [prompt])


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_batched(architecture: str, models: Models, engine: Callable[..., Any]) -> None:
    folder = models(architecture)
    assert_greedy(engine(folder), folder)


@pytest.mark.parametrize("architecture", ARCHITECTURES)
@pytest.mark.parametrize("chunk", [1, 3, 16])
def test_prefill_in_chunks(chunk: int, architecture: str, models: Models, engine: Callable[..., Any]) -> None:
    folder = models(architecture)
    assert_greedy(engine(folder, max_num_batched_tokens=chunk, block_size=4), folder)


@pytest.mark.parametrize("architecture", ARCHITECTURES)
@pytest.mark.parametrize("caching", [False, True])
def test_after_preemption(caching: bool, architecture: str, models: Models, engine: Callable[..., Any]) -> None:
    folder = models(architecture)
    tight = engine(
        folder, num_kv_blocks=44, block_size=4, max_model_len=176, max_num_batched_tokens=32,
        enable_prefix_caching=caching,
    )  # fmt: skip
    assert_greedy(tight, folder)
    is_windowed = architecture == "mistral"  # in every layer: what lies behind is given back (see test_windows)
    assert (tight.stats().num_preemptions == 0) == is_windowed


def test_arriving_while_others_decode(models: Models, engine: Callable[..., Any]) -> None:
    each, tokens = engine(max_num_batched_tokens=24, block_size=8), {}
    for index, prompt in enumerate(PROMPTS):
        each.add(str(index), prompt, GREEDY)
        for _ in range(5):
            for output in each.step():
                tokens.setdefault(output.sequence_id, []).extend(output.token_ids)
    while each.has_work:
        for output in each.step():
            tokens[output.sequence_id] += output.token_ids
    assert [tokens[str(i)] for i in range(len(PROMPTS))] == [expected_tokens(models(), tuple(p)) for p in PROMPTS]


def test_a_shared_prefix_is_computed_once(models: Models, engine: Callable[..., Any]) -> None:
    each, prefix = engine(block_size=8), list(range(3, 103))
    assert_greedy(each, models(), [prefix])
    assert_greedy(each, models(), [prefix + [7, 8, 9], prefix[:60] + [11, 12], prefix])
    assert each.stats().prefix_hit_tokens == 96 + 56 + 96  # whole blocks, never the last token of the prompt


VARIANTS = {
    "tied": {"tie_word_embeddings": True},
    "multi-query": {"num_key_value_heads": 1},
    "all heads": {"num_key_value_heads": 4},
    "head size": {"head_dim": 40},
    "biases": {"attention_bias": True},
    "rope theta": {"rope_theta": 500000.0},
    "rope linear": {"rope_scaling": {"type": "linear", "factor": 4.0}},
    "rope llama3": {
        "rope_scaling": {
            "rope_type": "llama3", "factor": 8.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0,
            "original_max_position_embeddings": 32,
        }
    },
    "rope parameters": {"rope_theta": None, "rope_parameters": {"rope_type": "default", "rope_theta": 777.0}},
}  # fmt: skip


@pytest.mark.parametrize("variant", VARIANTS)
def test_variants_of_llama(variant: str, models: Models, engine: Callable[..., Any]) -> None:
    folder = models("llama", **VARIANTS[variant])
    assert_greedy(engine(folder, block_size=8), folder)


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_logits_are_close(architecture: str, models: Models, engine: Callable[..., Any]) -> None:
    """Through the public door: reported log probabilities of every token against transformers' logits."""
    folder, prompt = models(architecture), PROMPTS[2]
    each = engine(folder)
    each.add("a", prompt, SamplingParams(temperature=0.0, max_tokens=8, ignore_eos=True, logprobs=5))
    outputs = []
    while each.has_work:
        outputs += each.step()
    tokens = [token for output in outputs for token in output.token_ids]
    with torch.no_grad():
        logits = oracle(folder)(torch.tensor([prompt + tokens])).logits[0]
    expected = torch.log_softmax(logits[len(prompt) - 1 : -1], dim=-1)
    for row, output in zip(expected, outputs, strict=True):
        (entry,) = output.logprobs
        assert entry.logprob == pytest.approx(row[entry.token_id].item(), abs=1e-4)
        values, ids = row.topk(5)
        assert [token_id for token_id, _ in entry.top] == ids.tolist()
        assert [value for _, value in entry.top] == pytest.approx(values.tolist(), abs=1e-4)


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_folder_written_by_transformers(
    architecture: str, models: Models, engine: Callable[..., Any], tmp_path: Path
) -> None:
    """The newest config format, and weights in several files with an index."""
    original = models(architecture)
    oracle(original).save_pretrained(tmp_path, max_shard_size="100KB")
    index = json.loads((tmp_path / "model.safetensors.index.json").read_text())
    assert len(set(index["weight_map"].values())) > 2
    shutil.copy(original / "tokenizer.json", tmp_path)
    each = engine(tmp_path)
    each.add("a", PROMPTS[2], GREEDY)
    assert run_to_end(each)["a"]["tokens"] == expected_tokens(original, tuple(PROMPTS[2]))


def test_bfloat16_is_near_float32(models: Models, engine: Callable[..., Any]) -> None:
    first = {}
    for dtype in ("float32", "bfloat16"):
        each = engine(dtype=dtype)
        each.add("a", PROMPTS[2], SamplingParams(temperature=0.0, max_tokens=1, logprobs=20))
        (output,) = each.step()
        first[dtype] = dict(output.logprobs[0].top)
    shared = first["float32"].keys() & first["bfloat16"].keys()
    assert len(shared) >= 10
    assert all(abs(first["float32"][t] - first["bfloat16"][t]) < 0.3 for t in shared)
    assert first["float32"] != first["bfloat16"]


@pytest.mark.parametrize("tied", [True, False])
def test_the_number_of_parameters_is_known_from_the_configuration(tmp_path: Path, tied: bool) -> None:
    folder = make_model(tmp_path / "m", "qwen3", tie_word_embeddings=tied)
    stored = sum(tensor.numel() for tensor in load_file(folder / "model.safetensors").values())
    assert read_model_config(folder).num_parameters == pytest.approx(stored, rel=0.02)
