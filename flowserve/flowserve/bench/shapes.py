"""Models by shape: random weights in the cache folder, in the layout that every subject or its converter reads."""

from __future__ import annotations

import json
import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ..cache_folder import cache_folder

END = "<|endoftext|>"
_MOST_WORDS = 16384
_TEXTS = [
    "The quick brown fox jumps over the lazy dog, and the dog does not mind.",
    "Tokens are only a measure here; what they say is of no account, the weights being random.",
]


@dataclass(frozen=True)
class Shape:
    """Sizes of a model; its head is tied to the embedding.

    kind: "llama" or "qwen3" (query and key norms).  dtype: of the checkpoint, "float32" or "bfloat16".
    """

    name: str
    title: str
    kind: str
    vocab: int
    hidden: int
    intermediate: int
    num_layers: int
    num_heads: int
    kv_heads: int
    head_dim: int
    dtype: str
    max_positions: int = 4096
    rope_theta: float = 1e6

    @property
    def layer_parameters(self) -> int:
        """Of all layers: what every token of a prompt is multiplied with."""
        attention = self.hidden * self.head_dim * (2 * self.num_heads + 2 * self.kv_heads)
        return self.num_layers * (attention + 3 * self.hidden * self.intermediate)

    @property
    def parameters(self) -> int:
        """Of all matrices: what one token of an answer reads."""
        return self.layer_parameters + self.vocab * self.hidden


SHAPES = {
    shape.name: shape
    for shape in (
        Shape("small", "Qwen3-0.6B", "qwen3", 151936, 1024, 3072, 28, 16, 8, 128, "bfloat16"),
        Shape("tiny", "Llama of 14.2M", "llama", 8192, 384, 1024, 7, 6, 2, 64, "float32", rope_theta=1e4),
        Shape("toy", "Llama of 0.2M, to see that it works", "llama", 1024, 64, 128, 2, 2, 1, 32, "float32"),
    )
}


def bench_folder() -> Path:
    """Where models and their conversions stay until somebody removes them."""
    return cache_folder() / "bench-models"


def model_folder(shape: Shape, dtype: str = "") -> Path:
    """A folder in Hugging Face layout, written now unless it is there. dtype: another than the shape's own."""
    folder = bench_folder() / (f"{shape.name}-{dtype}" if dtype else shape.name)
    if not (folder / "config.json").exists():
        partial = folder.with_name(folder.name + ".partial")
        shutil.rmtree(partial, ignore_errors=True)
        partial.mkdir(parents=True)
        _write_weights(partial / "model.safetensors", shape, dtype or shape.dtype)
        _write_tokenizer(partial, shape)
        _write_json(partial / "config.json", _config(shape, dtype or shape.dtype))
        shutil.rmtree(folder, ignore_errors=True)
        partial.rename(folder)
    return folder


def _config(shape: Shape, dtype: str) -> dict[str, Any]:
    return {
        "architectures": ["Qwen3ForCausalLM" if shape.kind == "qwen3" else "LlamaForCausalLM"],
        "model_type": shape.kind,
        "vocab_size": shape.vocab,
        "hidden_size": shape.hidden,
        "intermediate_size": shape.intermediate,
        "num_hidden_layers": shape.num_layers,
        "num_attention_heads": shape.num_heads,
        "num_key_value_heads": shape.kv_heads,
        "head_dim": shape.head_dim,
        "max_position_embeddings": shape.max_positions,
        "rms_norm_eps": 1e-6,
        "rope_theta": shape.rope_theta,
        "hidden_act": "silu",
        "attention_bias": False,
        "tie_word_embeddings": True,
        "torch_dtype": dtype,
        "bos_token_id": 0,
        "eos_token_id": 0,
        "pad_token_id": 0,
    }


def _write_weights(path: Path, shape: Shape, dtype: str) -> None:
    """The same values whatever the type: drawn, rounded to the shape's own, then widened if need be."""
    import torch
    from safetensors.torch import save_file

    generator = torch.Generator().manual_seed(0)
    own, wanted = getattr(torch, shape.dtype), getattr(torch, dtype)

    def matrix(rows: int, columns: int, scale: float = 0.0) -> torch.Tensor:
        values = torch.randn(rows, columns, generator=generator)
        return values.mul_(scale or columns**-0.5).to(own).to(wanted)

    def ones(size: int) -> torch.Tensor:
        return torch.ones(size, dtype=wanted)

    query, kv = shape.num_heads * shape.head_dim, shape.kv_heads * shape.head_dim
    tensors = {
        "model.embed_tokens.weight": matrix(shape.vocab, shape.hidden, 0.02),
        "model.norm.weight": ones(shape.hidden),
    }
    for layer in range(shape.num_layers):
        prefix = f"model.layers.{layer}."
        for norm in ("input_layernorm", "post_attention_layernorm"):
            tensors[f"{prefix}{norm}.weight"] = ones(shape.hidden)
        if shape.kind == "qwen3":
            for norm in ("q_norm", "k_norm"):
                tensors[f"{prefix}self_attn.{norm}.weight"] = ones(shape.head_dim)
        for name, rows, columns in (
            ("self_attn.q_proj", query, shape.hidden),
            ("self_attn.k_proj", kv, shape.hidden),
            ("self_attn.v_proj", kv, shape.hidden),
            ("self_attn.o_proj", shape.hidden, query),
            ("mlp.gate_proj", shape.intermediate, shape.hidden),
            ("mlp.up_proj", shape.intermediate, shape.hidden),
            ("mlp.down_proj", shape.hidden, shape.intermediate),
        ):
            tensors[f"{prefix}{name}.weight"] = matrix(rows, columns)
    save_file(tensors, path, metadata={"format": "pt"})


def _write_tokenizer(folder: Path, shape: Shape) -> None:
    """Byte pairs, and of a small vocabulary a word for each other id: what streams has an event for each token.

    A large one is left without, which would only take a time to be read: prompts are token ids.
    """
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers

    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=min(400, shape.vocab),
        special_tokens=[END],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator(_TEXTS, trainer)
    written = json.loads(tokenizer.to_str())
    if shape.vocab <= _MOST_WORDS:
        vocabulary = written["model"]["vocab"]
        vocabulary |= {f"\u0120w{token}": token for token in range(len(vocabulary), shape.vocab)}
    _write_json(folder / "tokenizer.json", written)
    _write_json(
        folder / "tokenizer_config.json",
        {
            "tokenizer_class": "PreTrainedTokenizerFast",
            "bos_token": END,
            "eos_token": END,
            "pad_token": END,
            "unk_token": END,
            "model_max_length": shape.max_positions,
            "clean_up_tokenization_spaces": False,
        },
    )


def _write_json(path: Path, value: Any) -> None:
    path.write_text(json.dumps(value, indent=2), encoding="utf-8")
