"""Hugging Face transformers as the oracle: random models, and whether an engine computes what transformers does.

An engine's every row of logits is recorded as it is sampled from, and compared with transformers' logits for the same
tokens. So is each greedy token: it must be transformers' best, or (random models have near ties) within the tolerance
of it. Because transformers is given the engine's own tokens, one forward pass checks a whole sequence, and a tie does
not end the comparison.
"""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from hypothesis import strategies as st
from safetensors.torch import load_file, save_file

from flowserve import Engine, EngineConfig, SamplingParams
from flowserve.device.base import StepLogits
from tests.tiny_models import make_model

BACKENDS: dict[str, dict[str, Any]] = {"torch": {"cpu_backend": "torch"}, "extension": {"cpu_backend": "extension"}}
"""Options of EngineConfig that choose an attention and compute back end, by its name."""

TOLERANCE = 1e-3
"""Of logits, relative to the largest of their row."""

EXAMPLES = int(os.environ.get("FLOWSERVE_ORACLE_EXAMPLES", "5"))
"""Random configurations per architecture and back end."""

MAX_POSITIONS = 1024


@dataclass(frozen=True)
class Case:
    """A random model. lengths: prompts it may be given, where the rope kind makes transformers depend on them."""

    architecture: str
    config: dict[str, Any]
    dtype: torch.dtype = torch.float32
    num_files: int = 1
    seed: int = 0
    lengths: tuple[int, int] = (1, 700)
    options: dict[str, Any] = field(default_factory=dict)

    def write(self, folder: Path) -> Path:
        """The model's folder, in the checkpoint's dtype and number of files."""
        make_model(folder, self.architecture, seed=self.seed, torch_dtype=str(self.dtype)[6:], **self.config)
        if self.dtype is not torch.float32 or self.num_files > 1:
            single = folder / "model.safetensors"
            tensors = {name: tensor.to(self.dtype) for name, tensor in load_file(single).items()}
            names = list(tensors)
            single.unlink()
            weight_map = {}
            for index in range(self.num_files):
                file = "model.safetensors" if self.num_files == 1 else f"model-{index}.safetensors"
                shard = names[index :: self.num_files]
                save_file({name: tensors[name] for name in shard}, folder / file, metadata={"format": "pt"})
                weight_map.update(dict.fromkeys(shard, file))
            if self.num_files > 1:
                (folder / "model.safetensors.index.json").write_text(
                    json.dumps({"metadata": {}, "weight_map": weight_map})
                )
        return folder


class Oracle:
    """transformers' model of a folder, in float32."""

    def __init__(self, folder: Path) -> None:
        from transformers import AutoModelForCausalLM

        self.model, info = AutoModelForCausalLM.from_pretrained(folder, output_loading_info=True, dtype=torch.float32)
        assert not info["missing_keys"] and not info["unexpected_keys"] and not info["mismatched_keys"], info
        self.model.eval()

    def logits(self, token_ids: list[int]) -> torch.Tensor:
        """Float32 [T, vocabulary], row t for the token behind token t."""
        torch.set_num_threads(1)
        with torch.inference_mode():
            logits: torch.Tensor = self.model(torch.tensor([token_ids])).logits[0]
        return logits.float()


class RecordedEngine:
    """An engine whose logits are kept: by sequence, those that give its token number `position`."""

    def __init__(self, folder: Path, **options: Any) -> None:
        self.engine = Engine.from_folder(folder, EngineConfig(**{"num_threads": 1, **options}))
        self.logits: dict[str, dict[int, torch.Tensor]] = {}
        self.prompts: dict[str, list[int]] = {}
        self.tokens: dict[str, list[int]] = {}
        runner = self.engine._worker._runner
        compute = runner.run

        def record(batch: Any, tokens: Mapping[str, list[int]]) -> StepLogits:
            step = compute(batch, tokens)
            logits, row = step.values, 0
            for entry in batch.sequences:
                for position in range(entry.end - entry.num_logits, entry.end):
                    self.logits[entry.sequence_id][position + 1] = logits[row].clone()
                    row += 1
            assert row == len(logits)
            return step

        runner.run = record

    def add(self, sequence_id: str, prompt: list[int], max_tokens: int) -> None:
        self.prompts[sequence_id], self.tokens[sequence_id], self.logits[sequence_id] = prompt, [], {}
        self.engine.add(sequence_id, prompt, SamplingParams(temperature=0.0, max_tokens=max_tokens, ignore_eos=True))

    def step(self) -> None:
        for output in self.engine.step():
            assert output.error is None
            self.tokens[output.sequence_id] += output.token_ids
        self.engine.check_invariants()

    def run(self) -> None:
        while self.engine.has_work:
            self.step()

    def check(self, oracle: Oracle) -> None:
        """Every sequence so far, against the oracle; then they are forgotten."""
        for sequence_id, prompt in self.prompts.items():
            tokens = self.tokens[sequence_id]
            expected = oracle.logits(prompt + tokens)
            assert sorted(self.logits[sequence_id]) == list(range(len(prompt), len(prompt) + len(tokens)))
            for index, token in enumerate(tokens):
                where = f"sequence {sequence_id}: prompt of {len(prompt)} tokens, output token {index}"
                _check_row(
                    self.logits[sequence_id][len(prompt) + index], expected[len(prompt) + index - 1], token, where
                )
        self.prompts, self.tokens, self.logits = {}, {}, {}


def _check_row(logits: torch.Tensor, expected: torch.Tensor, token: int, where: str) -> None:
    tolerance = TOLERANCE * float(expected.abs().max())
    error = float((logits - expected).abs().max())
    assert error <= tolerance, f"{where}: logits are off by {error}, allowed {tolerance}"
    missed = float(expected.max() - expected[token])
    assert missed <= 2 * tolerance, f"{where}: token {token} is {missed} below the best"
    assert token == int(logits.argmax()), f"{where}: token {token} is not the best of the engine's own logits"


# --- random configurations ----------------------------------------------------------------------------------


@st.composite
def cases(draw: st.DrawFn, architecture: str) -> Case:
    """A model of this architecture: sizes, bias, window, rope, tied head, checkpoint dtype, number of files."""
    num_kv_heads = draw(st.integers(1, 3))
    num_heads = num_kv_heads * draw(st.integers(1, 4))
    head_dim = draw(st.sampled_from([8, 16, 24, 32, 64, 96, 128]))
    num_layers = draw(st.integers(1, 4))
    config: dict[str, Any] = {
        "num_attention_heads": num_heads,
        "num_key_value_heads": num_kv_heads,
        "num_hidden_layers": num_layers,
        "hidden_size": num_heads * draw(st.sampled_from([8, 12, 16])),
        "intermediate_size": draw(st.sampled_from([16, 40, 96])),
        "vocab_size": draw(st.sampled_from([400, 401, 512])),
        "max_position_embeddings": MAX_POSITIONS,
        "rms_norm_eps": draw(st.sampled_from([1e-6, 1e-5, 1e-3])),
        "tie_word_embeddings": draw(st.booleans()),
        "head_dim": head_dim,
    }
    if architecture in ("llama", "qwen3"):
        config["attention_bias"] = draw(st.booleans())
    if architecture == "llama":
        config["mlp_bias"] = draw(st.booleans())
    if architecture in ("mistral", "phi3"):
        config["sliding_window"] = draw(st.none() | _WINDOWS)
    if architecture in ("qwen2", "qwen3"):
        config |= draw(_qwen_windows(num_layers))
    fraction = draw(st.sampled_from([1.0, 1.0, 0.75, 0.5])) if architecture == "phi3" else 1.0
    if architecture == "phi3":
        config["hidden_size"] = num_heads * head_dim
        del config["head_dim"]
    rope, lengths, options = draw(_ropes(architecture, head_dim, fraction))
    return Case(
        architecture,
        config | rope,
        dtype=draw(st.sampled_from([torch.float32, torch.bfloat16, torch.float16])),
        num_files=draw(st.sampled_from([1, 1, 3])),
        seed=draw(st.integers(0, 2**16)),
        lengths=lengths,
        options=options,
    )


_WINDOWS = st.sampled_from([1, 2, 3, 7, 8, 9, 31, 64, 200, 5000])


@st.composite
def _qwen_windows(draw: st.DrawFn, num_layers: int) -> dict[str, Any]:
    if not draw(st.booleans()):
        return {"use_sliding_window": False, "sliding_window": 8, "max_window_layers": 0}
    config: dict[str, Any] = {"use_sliding_window": True, "sliding_window": draw(_WINDOWS)}
    if draw(st.booleans()):
        return config | {"max_window_layers": draw(st.integers(0, num_layers + 1))}
    kinds = st.sampled_from(["full_attention", "sliding_attention"])
    return config | {"layer_types": draw(st.lists(kinds, min_size=num_layers, max_size=num_layers))}


@st.composite
def _ropes(
    draw: st.DrawFn, architecture: str, head_dim: int, fraction: float
) -> tuple[dict[str, Any], tuple[int, int], dict[str, Any]]:
    """The fields of config.json in the old spelling or the new, the lengths of prompts, options of the engine."""
    kinds = ["default", "longrope"] if architecture == "phi3" else ["default", "linear", "dynamic", "llama3", "yarn"]
    kind = draw(st.sampled_from(kinds))
    lengths, options, top = (1, 700), {}, {}
    original = draw(st.sampled_from([32, 100, 4000]))
    scaling: dict[str, Any] = {"rope_type": kind}
    if kind in ("linear", "dynamic", "yarn", "llama3"):
        scaling["factor"] = draw(st.sampled_from([1.0, 2.0, 8.0]))
    if kind in ("yarn", "llama3"):
        scaling["original_max_position_embeddings"] = original
    if kind == "llama3":
        scaling |= {"low_freq_factor": 1.0, "high_freq_factor": draw(st.sampled_from([2.0, 4.0]))}
    if kind == "yarn":
        scaling |= draw(st.sampled_from([{}, {"beta_fast": 16.0, "beta_slow": 2.0}, {"attention_factor": 0.7}]))
        scaling |= draw(st.sampled_from([{}, {"truncate": False}, {"mscale": 1.0, "mscale_all_dim": 0.5}]))
    if kind == "longrope":
        pairs = -(-int(head_dim * fraction) // 2)
        factors = st.lists(st.floats(1.0, 9.0), min_size=pairs, max_size=pairs)
        scaling |= {"short_factor": draw(factors), "long_factor": draw(factors)}
        top["original_max_position_embeddings"] = original
        if original < MAX_POSITIONS:  # the engine goes by its context, transformers by the sequence: let them agree
            is_long = draw(st.booleans())
            lengths = (original + 1, 700) if is_long else (1, original - 16)
            options = {} if is_long else {"max_model_len": original}
    theta = draw(st.sampled_from([100.0, 10000.0, 1e6]))
    if architecture == "phi3":
        top["partial_rotary_factor"] = fraction
    if draw(st.booleans()):
        new = {"rope_theta": theta, **scaling, **({"partial_rotary_factor": fraction} if fraction != 1.0 else {})}
        return {"rope_theta": None, "rope_parameters": new, **top}, lengths, options
    if kind == "default":
        return {"rope_theta": theta, **top}, lengths, options
    scaling["type"] = scaling.pop("rope_type")
    return {"rope_theta": theta, "rope_scaling": scaling, **top}, lengths, options


@dataclass(frozen=True)
class Run:
    """How prompts go through an engine. arrivals: steps between one prompt and the next."""

    prompts: list[list[int]]
    max_tokens: list[int]
    arrivals: list[int]
    options: dict[str, Any]


@st.composite
def runs(draw: st.DrawFn, case: Case) -> Run:
    """Prompts of 1 to 700 tokens, often with common beginnings, any chunk size, sometimes a KV cache too small."""
    low, high = case.lengths
    sizes = st.sampled_from([low, min(high, low + 1), min(high, 17), min(high, 64), high])
    lengths = draw(st.lists(sizes | st.integers(low, min(high, low + 99)), min_size=1, max_size=5))
    lengths = [max(low, length) for length in lengths]
    seed = torch.Generator().manual_seed(draw(st.integers(0, 2**16)))
    shared = torch.randint(0, 400, (high,), generator=seed).tolist()
    prompts = []
    for length in lengths:
        own = torch.randint(0, 400, (length,), generator=seed).tolist()
        kept = draw(st.sampled_from([0, 0, 8, 33, length - 1, length]))
        prompts.append((shared[: min(kept, length)] + own)[:length])
    max_tokens = [draw(st.integers(1, 12)) for _ in prompts]
    block_size = draw(st.sampled_from([4, 8, 16, 32]))
    longest = max(len(prompt) + num for prompt, num in zip(prompts, max_tokens, strict=True))
    options: dict[str, Any] = {
        "block_size": block_size,
        "max_num_batched_tokens": max(draw(st.sampled_from([1, 3, 16, 61, 512])), longest // 40),
        "enable_prefix_caching": draw(st.booleans()),
        "num_threads": draw(st.sampled_from([1, 2])),
        "max_model_len": min(MAX_POSITIONS, max(longest + 1, 2)) if draw(st.booleans()) else None,
        **case.options,
    }
    if case.lengths[0] > 1:
        options.pop("max_model_len")  # the whole context, which is what makes it a long one
    elif options["max_model_len"] is not None and draw(st.booleans()):
        options["num_kv_blocks"] = -(-options["max_model_len"] // block_size)
    arrivals = [draw(st.integers(0, 4)) for _ in prompts]
    return Run(prompts, max_tokens, arrivals, options)
