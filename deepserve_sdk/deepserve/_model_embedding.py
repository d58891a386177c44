"""Texts to vectors, as users ask a hosted model for them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from deepserve.protocol.model_io import EmbedInput

VERB = "llm.embed"


def embed_input(texts: Any, truncate: bool) -> EmbedInput:
    """Raises TypeError naming the text."""
    if isinstance(texts, str):
        return EmbedInput([texts], bool(truncate))
    if not isinstance(texts, Sequence):
        raise TypeError(f"{VERB} takes a text or a list of texts, not {type(texts).__name__}")
    return EmbedInput([_text(index, text) for index, text in enumerate(texts)], bool(truncate))


def _text(index: int, text: Any) -> str | list[int]:
    if isinstance(text, str):
        return text
    if isinstance(text, Sequence) and all(isinstance(one, int) and not isinstance(one, bool) for one in text):
        return list(text)
    raise TypeError(f"{VERB}: text {index} must be a text or token ids, not {text!r}"[:300])
