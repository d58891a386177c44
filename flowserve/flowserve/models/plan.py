"""DecoderPlan: what a decoder-only model consists of, whatever its checkpoint calls it. No data is read for one."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, fields
from itertools import chain
from pathlib import Path

from .config import ModelConfig
from .folder_state import FileState
from .parameter import Parameter


@dataclass(frozen=True, slots=True)
class LayerPlan:
    """One layer: h += output(attention(qkv(norm(h)))), then h += down(silu(gate) * up) of norm(h).

    qkv: rows are [query heads, key heads, value heads] of head_dim each.  gate_up: rows are [gate, up].
    query_norm, key_norm: over one head, before the rotary embedding.
    """

    attention_norm: Parameter
    qkv: Parameter
    qkv_bias: Parameter | None
    query_norm: Parameter | None
    key_norm: Parameter | None
    output: Parameter
    output_bias: Parameter | None
    mlp_norm: Parameter
    gate_up: Parameter
    gate_up_bias: Parameter | None
    down: Parameter
    down_bias: Parameter | None


@dataclass(frozen=True, slots=True)
class DecoderPlan:
    """head: None where the embedding is the output projection too."""

    config: ModelConfig
    embedding: Parameter
    layers: tuple[LayerPlan, ...]
    final_norm: Parameter
    head: Parameter | None

    def files(self) -> dict[Path, FileState]:
        """The weights' files that were opened, as they were then."""
        opened = {part.tensor.file for parameter in self.parameters() for part in parameter.parts}
        return {file.path: file.state for file in opened}

    def parameters(self) -> Iterator[Parameter]:
        """All of them, each once."""
        return chain.from_iterable(self.parts())

    def matrices(self) -> Iterator[Parameter]:
        """Those of the layers."""
        for layer in self.layers:
            yield from (layer.qkv, layer.output, layer.gate_up, layer.down)

    def parts(self) -> Iterator[list[Parameter]]:
        """What a step needs one after the other: the embedding, each layer, the rest."""
        yield [self.embedding]
        for layer in self.layers:
            found = (getattr(layer, field.name) for field in fields(layer))
            yield [parameter for parameter in found if parameter is not None]
        yield [self.final_norm] if self.head is None else [self.final_norm, self.head]
