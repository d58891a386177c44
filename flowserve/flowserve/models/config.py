"""ModelConfig: config.json of a decoder model, read once and checked. Needs no torch."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ..errors import CheckpointError, UnsupportedModelError
from .json_fields import FieldReader, read_config_json, read_json
from .registry import family_of
from .rope_config import RopeConfig, read_rope

_DEFAULTS: dict[str, dict[str, Any]] = {
    "mistral": {"sliding_window": 4096},
    "phi3": {"rms_norm_eps": 1e-5, "original_max_position_embeddings": 4096},
    "qwen2": {"sliding_window": 4096, "max_window_layers": 28},
    "qwen3": {"sliding_window": 4096, "max_window_layers": 28, "head_dim": 128},
}
"""What transformers' configuration classes assume where config.json says nothing."""


@dataclass(frozen=True)
class ModelConfig:
    """Sizes and switches of a decoder-only model, under one name each.

    windows: per layer, how many tokens back a query sees, itself counted; 0 = all of them.
    """

    architecture: str
    vocab_size: int
    hidden_size: int
    intermediate_size: int
    num_layers: int
    num_heads: int
    num_kv_heads: int
    head_dim: int
    max_positions: int
    rms_norm_eps: float
    rope: RopeConfig
    tie_word_embeddings: bool
    attention_bias: bool
    mlp_bias: bool
    windows: tuple[int, ...]
    dtype: str

    @property
    def num_parameters(self) -> int:
        """Elements of all matrices; biases and norms, below a thousandth of them, are left out."""
        attention = self.head_dim * (2 * self.num_heads + 2 * self.num_kv_heads) * self.hidden_size
        mlp = 3 * self.hidden_size * self.intermediate_size
        heads = self.vocab_size * self.hidden_size * (1 if self.tie_word_embeddings else 2)
        return heads + self.num_layers * (attention + mlp)


def read_model_config(folder: Path) -> ModelConfig:
    """Read config.json.

    Raises ModelNotFoundError without one, CheckpointError for a missing or wrong field, UnsupportedModelError for
    features that would silently give other results (quantised weights, an unknown rope scaling or activation).
    """
    path, raw, architecture = read_config_json(folder)
    family = family_of(architecture)
    raw = {**_DEFAULTS.get(family, {}), **raw}
    _check_features(raw, path)
    field = FieldReader(raw, path)
    num_layers, num_heads = field.count("num_hidden_layers"), field.count("num_attention_heads")
    hidden_size, max_positions = field.count("hidden_size"), field.count("max_position_embeddings")
    head_dim = field.count("head_dim", hidden_size // num_heads)
    rope = read_rope(field, family, head_dim, max_positions)
    if rope.kind == "yarn":  # a folder stretched by hand often keeps the old number of positions
        max_positions = max(max_positions, int(rope.original_max_positions * rope.factor))
    config = ModelConfig(
        architecture=architecture,
        vocab_size=field.count("vocab_size"),
        hidden_size=hidden_size,
        intermediate_size=field.count("intermediate_size"),
        num_layers=num_layers,
        num_heads=num_heads,
        num_kv_heads=field.count("num_key_value_heads", num_heads),
        head_dim=head_dim,
        max_positions=max_positions,
        rms_norm_eps=field.number("rms_norm_eps", 1e-6),
        rope=rope,
        tie_word_embeddings=bool(raw.get("tie_word_embeddings", False)),
        attention_bias=bool(raw.get("attention_bias", False)),
        mlp_bias=bool(raw.get("mlp_bias", False)),
        windows=_read_windows(raw, family, num_layers, path),
        dtype=str(raw.get("dtype") or raw.get("torch_dtype") or "float32"),
    )
    if config.num_heads % config.num_kv_heads:
        raise CheckpointError(f"{path}: {config.num_heads} heads do not share {config.num_kv_heads} KV heads evenly")
    return config


def read_eos_token_ids(folder: Path) -> tuple[int, ...]:
    """Token ids that end a sequence: of generation_config.json if it names any, else of config.json."""
    for name in ("generation_config.json", "config.json"):
        path = folder / name
        value = read_json(path).get("eos_token_id") if path.is_file() else None
        ids = value if isinstance(value, list) else [] if value is None else [value]
        if not all(isinstance(token_id, int) for token_id in ids):
            raise CheckpointError(f"{path}: eos_token_id must be token ids, got {value!r}")
        if ids:
            return tuple(ids)
    return ()


def _read_windows(raw: dict[str, Any], family: str, num_layers: int, path: Path) -> tuple[int, ...]:
    """Per layer, as transformers reads it: Mistral and Phi-3 slide everywhere, Qwen from a layer on or where told."""
    field, kinds = FieldReader(raw, path), raw.get("layer_types")
    if kinds is not None and (not isinstance(kinds, list) or len(kinds) != num_layers):
        raise CheckpointError(f"{path}: layer_types must name {num_layers} layers, got {kinds!r}")
    unknown = set(kinds or ()) - {"full_attention", "sliding_attention"}
    if unknown:
        raise UnsupportedModelError(f"{path}: layer type {sorted(unknown, key=str)[0]!r} is not supported")
    slides = "sliding_attention" in (kinds or ())
    if family in ("mistral", "phi3") and not slides:
        return (0 if raw.get("sliding_window") is None else field.count("sliding_window"),) * num_layers
    if family not in ("qwen2", "qwen3"):
        if slides or raw.get("use_sliding_window"):
            raise UnsupportedModelError(f"{path}: sliding-window attention is not supported for {family}")
        return (0,) * num_layers
    if not raw.get("use_sliding_window") or raw.get("sliding_window") is None:
        if slides:
            raise CheckpointError(f"{path}: layer_types names sliding layers, but use_sliding_window is off")
        return (0,) * num_layers
    window, first = field.count("sliding_window"), raw.get("max_window_layers")
    if kinds is None:
        if not isinstance(first, int) or first < 0:
            raise CheckpointError(f"{path}: field 'max_window_layers' must be a number of layers, got {first!r}")
        kinds = ["sliding_attention" if layer >= first else "full_attention" for layer in range(num_layers)]
    return tuple(window if kind == "sliding_attention" else 0 for kind in kinds)


def _check_features(raw: dict[str, Any], path: Path) -> None:
    if raw.get("quantization_config"):
        raise UnsupportedModelError(f"{path}: the weights are quantised, which is not supported")
    activation = raw.get("hidden_act", "silu")
    if activation not in ("silu", "swish"):  # two names of one function
        raise UnsupportedModelError(f"{path}: hidden_act {activation!r} is not supported; supported: 'silu'")
