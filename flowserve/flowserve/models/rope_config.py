"""RopeConfig: the rotary embedding that config.json asks for, in the old spelling and the new. Needs no torch."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

from ..errors import CheckpointError, UnsupportedModelError
from .json_fields import FieldReader

ROPE_KINDS = ("default", "linear", "dynamic", "llama3", "yarn", "longrope")


@dataclass(frozen=True)
class RopeConfig:
    """Rotary embedding. The names and meanings of the kinds are transformers' (ROPE_INIT_FUNCTIONS).

    rotary_dim: how many of a head's dimensions turn, the first ones.  theta, exponent_dim: pair i of them turns by
    theta ** (-2 i / exponent_dim) per position, before scaling.  factor: of linear, llama3 and yarn.
    attention_factor: cos and sin are multiplied by it.  low_freq_factor, high_freq_factor: of llama3.
    beta_fast, beta_slow, truncate: of yarn.  short_factors, long_factors: of longrope, one per pair.
    original_max_positions: the context before it was stretched, of llama3, yarn and longrope.
    "dynamic" changes nothing within the model's positions, which no engine here exceeds.
    """

    kind: str
    theta: float
    rotary_dim: int
    exponent_dim: int
    factor: float = 1.0
    attention_factor: float = 1.0
    low_freq_factor: float = 1.0
    high_freq_factor: float = 1.0
    beta_fast: float = 32.0
    beta_slow: float = 1.0
    truncate: bool = True
    short_factors: tuple[float, ...] = ()
    long_factors: tuple[float, ...] = ()
    original_max_positions: int = 0


def read_rope(top: FieldReader, family: str, head_dim: int, max_positions: int) -> RopeConfig:
    """`rope_parameters` (transformers 5) or `rope_theta` with `rope_scaling` (before), from the whole config.json.

    Raises UnsupportedModelError for a kind that is not in ROPE_KINDS, CheckpointError for missing or wrong fields.
    """
    scaling = top.raw.get("rope_parameters") or top.raw.get("rope_scaling") or {}
    if not isinstance(scaling, dict):
        raise CheckpointError(f"{top.path}: rope_parameters must be an object, got {scaling!r}")
    if any(isinstance(value, dict) for value in scaling.values()):
        raise UnsupportedModelError(f"{top.path}: rotary embeddings that differ by layer are not supported")
    field = FieldReader({**top.raw, **scaling}, top.path)
    is_phi = family == "phi3"
    kind = scaling.get("rope_type") or scaling.get("type") or "default"
    if is_phi and kind in ("su", "yarn"):  # what longrope was called in the first folders of Phi-3
        kind = "longrope"
    if kind not in ROPE_KINDS:
        supported = ", ".join(ROPE_KINDS)
        raise UnsupportedModelError(f"{top.path}: rope type {kind!r} is not supported; supported: {supported}")
    fraction = field.number("partial_rotary_factor", 1.0)
    if fraction != 1.0 and not is_phi:
        raise UnsupportedModelError(f"{top.path}: partial rotary embeddings are not supported for this architecture")
    exponent_dim = int(head_dim * fraction)
    if not 2 <= exponent_dim <= head_dim:
        raise CheckpointError(f"{top.path}: partial_rotary_factor {fraction} of a head of {head_dim}")
    rotary_dim = exponent_dim + exponent_dim % 2
    if rotary_dim > head_dim:
        raise CheckpointError(f"{top.path}: a head of {head_dim} dimensions cannot turn in pairs")
    return RopeConfig(
        kind=kind,
        theta=field.number("rope_theta", 10000.0),
        rotary_dim=rotary_dim,
        exponent_dim=exponent_dim,
        **_scaling(kind, field, top, rotary_dim, max_positions),
    )


def _scaling(kind: str, field: FieldReader, top: FieldReader, rotary_dim: int, max_positions: int) -> dict[str, Any]:
    """What the kinds need beyond theta. An original context given beside the rope's own fields wins, as it does in
    transformers."""
    if kind == "default":
        return {}
    if kind in ("linear", "dynamic"):
        return {"factor": field.number("factor")}
    original = top.count(
        "original_max_position_embeddings", field.count("original_max_position_embeddings", max_positions)
    )
    if kind == "llama3":
        return {
            "factor": field.number("factor"),
            "low_freq_factor": field.number("low_freq_factor"),
            "high_freq_factor": field.number("high_freq_factor"),
            "original_max_positions": original,
        }
    factor = field.number("factor", max_positions / original)
    if kind == "yarn":
        return {
            "factor": factor,
            "attention_factor": field.optional_number("attention_factor") or _yarn_attention_factor(factor, field),
            "beta_fast": field.number("beta_fast", 32.0),
            "beta_slow": field.number("beta_slow", 1.0),
            "truncate": bool(field.raw.get("truncate", True)),
            "original_max_positions": original,
        }
    by_length = 1.0 if factor <= 1.0 else math.sqrt(1 + math.log(factor) / math.log(original))
    return {
        "attention_factor": field.optional_number("attention_factor") or by_length,
        "short_factors": field.numbers("short_factor", rotary_dim // 2),
        "long_factors": field.numbers("long_factor", rotary_dim // 2),
        "original_max_positions": original,
    }


def _yarn_attention_factor(factor: float, field: FieldReader) -> float:
    def scale(weight: float) -> float:
        return 1.0 if factor <= 1.0 else 0.1 * weight * math.log(factor) + 1.0

    one, all_dims = field.optional_number("mscale"), field.optional_number("mscale_all_dim")
    return scale(one) / scale(all_dims) if one and all_dims else scale(1.0)
