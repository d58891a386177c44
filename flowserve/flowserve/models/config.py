"""ModelConfig: config.json of a decoder model, read once and checked. Needs no torch."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ..errors import CheckpointError, ModelNotFoundError, UnsupportedModelError


@dataclass(frozen=True)
class RopeConfig:
    """Rotary embedding. kind: "default", "linear" or "llama3"; the rest is used by the kinds that name it."""

    theta: float
    kind: str = "default"
    factor: float = 1.0
    low_freq_factor: float = 1.0
    high_freq_factor: float = 1.0
    original_max_positions: int = 0


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
    features that would silently give other results (sliding windows, quantised weights, unknown rope scaling).
    """
    path = folder / "config.json"
    if not folder.is_dir():
        raise ModelNotFoundError(f"no model folder {str(folder)!r}")
    if not path.is_file():
        raise ModelNotFoundError(f"{str(folder)!r} is not a model folder: it has no config.json")
    raw = read_json(path)
    _check_supported(raw, path)
    field = _FieldReader(raw, path)
    num_heads, hidden_size = field.count("num_attention_heads"), field.count("hidden_size")
    config = ModelConfig(
        architecture=_architecture(raw, path),
        vocab_size=field.count("vocab_size"),
        hidden_size=hidden_size,
        intermediate_size=field.count("intermediate_size"),
        num_layers=field.count("num_hidden_layers"),
        num_heads=num_heads,
        num_kv_heads=field.count("num_key_value_heads", num_heads),
        head_dim=field.count("head_dim", hidden_size // num_heads),
        max_positions=field.count("max_position_embeddings"),
        rms_norm_eps=field.number("rms_norm_eps", 1e-6),
        rope=_read_rope(raw, path),
        tie_word_embeddings=bool(raw.get("tie_word_embeddings", False)),
        attention_bias=bool(raw.get("attention_bias", False)),
        mlp_bias=bool(raw.get("mlp_bias", False)),
        windows=(0,) * field.count("num_hidden_layers"),
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


def read_json(path: Path) -> dict[str, Any]:
    """A JSON object from a file; CheckpointError names the file."""
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise CheckpointError(f"{path}: {error}") from error
    if not isinstance(content, dict):
        raise CheckpointError(f"{path}: expected a JSON object")
    return content


@dataclass(frozen=True)
class _FieldReader:
    raw: dict[str, Any]
    path: Path

    def number(self, name: str, default: float | None = None) -> float:
        value = self.raw.get(name)
        value = default if value is None else value
        if isinstance(value, bool) or not isinstance(value, int | float) or value <= 0:
            raise CheckpointError(f"{self.path}: field {name!r} must be a positive number, got {value!r}")
        return value

    def count(self, name: str, default: int | None = None) -> int:
        value = self.number(name, default)
        if value != int(value):
            raise CheckpointError(f"{self.path}: field {name!r} must be a whole number, got {value!r}")
        return int(value)


def _architecture(raw: dict[str, Any], path: Path) -> str:
    names = raw.get("architectures")
    if not isinstance(names, list) or not names or not isinstance(names[0], str):
        raise CheckpointError(f"{path}: field 'architectures' must name the model's class, got {names!r}")
    return names[0]


def _check_supported(raw: dict[str, Any], path: Path) -> None:
    if raw.get("quantization_config"):
        raise UnsupportedModelError(f"{path}: the weights are quantised, which is not supported")
    layer_types = raw.get("layer_types")
    slides = set(layer_types) - {"full_attention"} if layer_types else raw.get("use_sliding_window")
    if slides:
        raise UnsupportedModelError(f"{path}: the model needs sliding-window attention, which is not supported")
    activation = raw.get("hidden_act", "silu")
    if activation != "silu":
        raise UnsupportedModelError(f"{path}: hidden_act {activation!r} is not supported; supported: 'silu'")


def _read_rope(raw: dict[str, Any], path: Path) -> RopeConfig:
    """`rope_parameters` (transformers 5) or `rope_theta` with `rope_scaling` (before)."""
    scaling = raw.get("rope_parameters") or raw.get("rope_scaling") or {}
    theta = float(scaling.get("rope_theta") or raw.get("rope_theta") or 10000.0)
    kind = scaling.get("rope_type") or scaling.get("type") or "default"
    if float(scaling.get("partial_rotary_factor") or raw.get("partial_rotary_factor") or 1.0) != 1.0:
        raise UnsupportedModelError(f"{path}: partial rotary embeddings are not supported")
    if kind == "default":
        return RopeConfig(theta)
    if kind not in ("linear", "llama3"):
        raise UnsupportedModelError(f"{path}: rope type {kind!r} is not supported; supported: default, linear, llama3")
    field = _FieldReader(scaling, path)
    if kind == "linear":
        return RopeConfig(theta, kind, factor=field.number("factor"))
    return RopeConfig(
        theta,
        kind,
        factor=field.number("factor"),
        low_freq_factor=field.number("low_freq_factor"),
        high_freq_factor=field.number("high_freq_factor"),
        original_max_positions=field.count("original_max_position_embeddings"),
    )
