"""Names: the checkpoint's names for the parts of a decoder, and the plan that they give.

Llama's names are everybody's; an architecture's file says where it differs.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

from .checkpoint import Checkpoint
from .config import ModelConfig
from .parameter import Parameter, Part
from .plan import DecoderPlan, LayerPlan


@dataclass(frozen=True)
class Names:
    """Where one module of the model finds its tensors."""

    checkpoint: Checkpoint
    prefix: str = ""

    def at(self, name: str | int) -> Names:
        """The same one level down."""
        return replace(self, prefix=f"{self.prefix}{name}.")

    def one(self, name: str, *shape: int) -> Parameter:
        """The tensor of this name, as it is."""
        stored = self.checkpoint.tensor(self.prefix + name, shape)
        return Parameter(stored.name, shape, (Part(stored, 0, shape[0]),))

    def joined(self, rows: dict[str, int], suffix: str, *columns: int) -> Parameter:
        """Several tensors, each with its rows, one below the other: several products of the same input as one."""
        parts = [self.one(f"{name}.{suffix}", size, *columns).parts[0] for name, size in rows.items()]
        return Parameter(f"{self.prefix}{'+'.join(rows)}.{suffix}", (sum(rows.values()), *columns), tuple(parts))


@dataclass(frozen=True)
class Differences:
    """How an architecture differs from the plainest. fused: the checkpoint has qkv_proj and gate_up_proj as one."""

    qkv_bias: bool = False
    output_bias: bool = False
    mlp_bias: bool = False
    qk_norm: bool = False
    fused: bool = False


def decoder_plan(checkpoint: Checkpoint, config: ModelConfig, differences: Differences) -> DecoderPlan:
    """Find every tensor. Raises CheckpointError for one that is missing or of another shape."""
    names, hidden = Names(checkpoint), config.hidden_size
    inner = names if "embed_tokens.weight" in checkpoint else names.at("model")  # embedding models have no level more
    return DecoderPlan(
        config=config,
        embedding=inner.one("embed_tokens.weight", config.vocab_size, hidden),
        layers=tuple(
            _layer_plan(inner.at("layers").at(index), config, differences) for index in range(config.num_layers)
        ),
        final_norm=inner.one("norm.weight", hidden),
        head=None if config.tie_word_embeddings else names.one("lm_head.weight", config.vocab_size, hidden),
    )


def _layer_plan(names: Names, config: ModelConfig, differences: Differences) -> LayerPlan:
    attention, mlp = names.at("self_attn"), names.at("mlp")
    hidden, inner, head_dim = config.hidden_size, config.intermediate_size, config.head_dim
    q_size, kv_size = config.num_heads * head_dim, config.num_kv_heads * head_dim
    if differences.fused:
        qkv_rows, gate_up_rows = {"qkv_proj": q_size + 2 * kv_size}, {"gate_up_proj": 2 * inner}
    else:
        qkv_rows = {"q_proj": q_size, "k_proj": kv_size, "v_proj": kv_size}
        gate_up_rows = {"gate_proj": inner, "up_proj": inner}
    return LayerPlan(
        attention_norm=names.one("input_layernorm.weight", hidden),
        qkv=attention.joined(qkv_rows, "weight", hidden),
        qkv_bias=attention.joined(qkv_rows, "bias") if differences.qkv_bias else None,
        query_norm=attention.one("q_norm.weight", head_dim) if differences.qk_norm else None,
        key_norm=attention.one("k_norm.weight", head_dim) if differences.qk_norm else None,
        output=attention.one("o_proj.weight", hidden, q_size),
        output_bias=attention.one("o_proj.bias", hidden) if differences.output_bias else None,
        mlp_norm=names.one("post_attention_layernorm.weight", hidden),
        gate_up=mlp.joined(gate_up_rows, "weight", hidden),
        gate_up_bias=mlp.joined(gate_up_rows, "bias") if differences.mlp_bias else None,
        down=mlp.one("down_proj.weight", hidden, inner),
        down_bias=mlp.one("down_proj.bias", hidden) if differences.mlp_bias else None,
    )
