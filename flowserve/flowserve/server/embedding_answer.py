"""What /v1/embeddings is asked and answers, without the model that computes it."""

from __future__ import annotations

import base64
import json
import math
import sys
from array import array
from collections.abc import Sequence
from pathlib import Path

import msgspec

from .api_error import invalid
from .chunks import encode
from .model_name import check_name
from .requests import EmbeddingRequest, listed_prompts

MAX_INPUTS = 2048


class EmbeddingUsage(msgspec.Struct):
    prompt_tokens: int
    total_tokens: int


class Embedding(msgspec.Struct):
    object: str
    index: int
    embedding: list[float] | str


class EmbeddingBody(msgspec.Struct):
    object: str
    data: list[Embedding]
    model: str
    usage: EmbeddingUsage


class EmbeddingAnswer:
    """inputs: texts or token ids.  truncate: whether those that are too long are cut."""

    def __init__(self, asked: EmbeddingRequest, names: Sequence[str], folder: Path, dimension: int) -> None:
        """dimension: of the model's vectors.  Raises ApiError."""
        self._name = check_name(asked.model, names)
        self.inputs = listed_prompts(asked.input, "input")
        if len(self.inputs) > MAX_INPUTS:
            raise invalid(f"{len(self.inputs)} inputs are more than {MAX_INPUTS}", "input")
        for index, text in enumerate(self.inputs):
            if not text:  # as OpenAI has it, whatever special tokens the model would put around nothing
                raise invalid(f"input {index} is empty", "input")
        if asked.truncate_prompt_tokens not in (None, -1):
            raise invalid(
                "truncate_prompt_tokens must be -1, the length that the model takes", "truncate_prompt_tokens"
            )
        self.truncate = asked.truncate_prompt_tokens == -1
        self._dimensions = _dimensions(asked.dimensions, dimension, folder)
        self._format = asked.encoding_format or "float"

    def body(self, vectors: Sequence[list[float]], num_tokens: int) -> bytes:
        data = [
            Embedding("embedding", index, _spelled(_cut(vector, self._dimensions), self._format))
            for index, vector in enumerate(vectors)
        ]
        return encode(EmbeddingBody("list", data, self._name, EmbeddingUsage(num_tokens, num_tokens)))


def _dimensions(asked: int | None, own: int, folder: Path) -> int:
    """Raises ApiError where the start of a vector means nothing, as config.json says."""
    if asked is None or asked == own:
        return own
    config = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    listed = config.get("matryoshka_dimensions")
    if not listed and not config.get("is_matryoshka"):
        raise invalid(f"the model gives {own} dimensions and was not trained to give fewer", "dimensions")
    if isinstance(listed, list) and listed and asked not in listed:
        raise invalid(f"dimensions must be one of {', '.join(map(str, listed))}, got {asked}", "dimensions")
    if not 1 <= asked <= own:
        raise invalid(f"dimensions must be 1 to {own}, got {asked}", "dimensions")
    return asked


def _cut(vector: list[float], dimensions: int) -> list[float]:
    """The first `dimensions`, of length 1 again."""
    if dimensions == len(vector):
        return vector
    start = vector[:dimensions]
    length = math.sqrt(sum(value * value for value in start)) or 1.0
    return [value / length for value in start]


def _spelled(vector: list[float], encoding_format: str) -> list[float] | str:
    """base64: of float32, lowest byte first."""
    if encoding_format == "float":
        return vector
    numbers = array("f", vector)
    if sys.byteorder == "big":
        numbers.byteswap()
    return base64.b64encode(numbers.tobytes()).decode()
