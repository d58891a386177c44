"""Pooling: from a text's hidden states to its one vector, as the folder's sentence-transformers files say."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..errors import CheckpointError, UnsupportedModelError
from .json_fields import FieldReader, read_json, read_json_list

if TYPE_CHECKING:
    import torch

POOLINGS = ("cls", "max", "mean", "mean_sqrt_len", "weighted_mean", "last")
"""In the order in which several are joined."""

_FIELDS = {
    "cls": "pooling_mode_cls_token",
    "max": "pooling_mode_max_tokens",
    "mean": "pooling_mode_mean_tokens",
    "mean_sqrt_len": "pooling_mode_mean_sqrt_len_tokens",
    "weighted_mean": "pooling_mode_weightedmean_tokens",
    "last": "pooling_mode_lasttoken",
}


@dataclass(frozen=True)
class PoolingConfig:
    """poolings: whose results are joined to one vector.  normalizes: to length 1.

    max_tokens: of a text, where the folder says less than the network can.  lowers_case, prompt: what is done to a
    text first, and what is put before it.
    """

    poolings: tuple[str, ...] = ("mean",)
    normalizes: bool = False
    max_tokens: int | None = None
    lowers_case: bool = False
    prompt: str = ""


def read_pooling(folder: Path, default: PoolingConfig) -> PoolingConfig:
    """modules.json and what it leads to; a folder without one gets `default`.

    Raises CheckpointError for files that contradict themselves, UnsupportedModelError naming another kind of module.
    """
    path = folder / "modules.json"
    if not path.is_file():
        return default
    try:
        modules = [(str(module["type"]).rpartition(".")[2], str(module["path"])) for module in read_json_list(path)]
    except (TypeError, KeyError) as error:
        raise CheckpointError(f"{path}: every module must have a type and a path") from error
    poolings, normalizes = default.poolings, False
    for kind, place in modules:
        if kind == "Pooling":
            poolings = _read_poolings(folder / place / "config.json")
        elif kind == "Normalize":
            normalizes = True
        elif kind != "Transformer":
            raise UnsupportedModelError(f"{path}: module {kind!r} is not supported; supported: Pooling, Normalize")
    sentence = _optional(folder / "sentence_bert_config.json")
    field = FieldReader(sentence, folder / "sentence_bert_config.json")
    return PoolingConfig(
        poolings,
        normalizes,
        max_tokens=field.count("max_seq_length") if sentence.get("max_seq_length") is not None else None,
        lowers_case=bool(sentence.get("do_lower_case")),
        prompt=_read_prompt(folder / "config_sentence_transformers.json"),
    )


def pool(hidden: torch.Tensor, lengths: Sequence[int], config: PoolingConfig) -> torch.Tensor:
    """hidden [B, L, d] of B texts of so many tokens -> float32 [B, number of poolings * d]."""
    import torch

    hidden = hidden.float()
    counts = torch.tensor(list(lengths), device=hidden.device)
    inside = (torch.arange(hidden.shape[1], device=hidden.device) < counts[:, None])[..., None]
    summed = hidden.masked_fill(~inside, 0.0).sum(1)
    pooled = []
    for pooling in config.poolings:
        if pooling == "cls":
            pooled.append(hidden[:, 0])
        elif pooling == "last":
            pooled.append(hidden[torch.arange(len(counts)), counts - 1])
        elif pooling == "max":
            pooled.append(hidden.masked_fill(~inside, float("-inf")).amax(1))
        elif pooling == "mean":
            pooled.append(summed / counts[:, None])
        elif pooling == "mean_sqrt_len":
            pooled.append(summed / counts[:, None].sqrt())
        else:
            weights = torch.arange(1, hidden.shape[1] + 1, device=hidden.device)[None, :, None] * inside
            pooled.append((hidden * weights).masked_fill(~inside, 0.0).sum(1) / weights.sum(1))
    vectors = torch.cat(pooled, dim=-1)
    return torch.nn.functional.normalize(vectors, dim=-1) if config.normalizes else vectors


def _read_poolings(path: Path) -> tuple[str, ...]:
    raw = read_json(path)
    asked = {field for field, value in raw.items() if field.startswith("pooling_mode_") and value}
    unknown = asked - set(_FIELDS.values())
    if unknown:
        raise UnsupportedModelError(
            f"{path}: {sorted(unknown)[0]!r} is not supported; supported: {', '.join(POOLINGS)}"
        )
    found = tuple(name for name in POOLINGS if _FIELDS[name] in asked)
    if not found:
        raise CheckpointError(f"{path}: no pooling_mode is on")
    return found


def _read_prompt(path: Path) -> str:
    """What sentence-transformers puts before every text unless asked for something else."""
    raw = _optional(path)
    name, prompts = raw.get("default_prompt_name"), raw.get("prompts")
    if name is None:
        return ""
    if not isinstance(prompts, dict) or not isinstance(prompts.get(name), str):
        raise CheckpointError(f"{path}: default_prompt_name {name!r} is none of its prompts")
    return str(prompts[name])


def _optional(path: Path) -> dict[str, Any]:
    return read_json(path) if path.is_file() else {}
