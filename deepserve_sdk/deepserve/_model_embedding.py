"""Texts to vectors, as users ask a hosted model for them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from deepserve.protocol.model_io import EmbedInput

VERB = "llm.embed"
_BYTES = (bytes, bytearray, memoryview)


def embed_input(texts: Any, truncate: bool) -> EmbedInput:
    """Raises TypeError naming the text."""
    if isinstance(texts, str):
        return EmbedInput([texts], bool(truncate))
    if not isinstance(texts, Sequence) or isinstance(texts, _BYTES):
        raise TypeError(f"{VERB} takes a text or a list of texts, not {_kind(texts)}")
    return EmbedInput([_text(index, text) for index, text in enumerate(texts)], bool(truncate))


def _text(index: int, text: Any) -> str | list[int]:
    if isinstance(text, str):
        return text
    if isinstance(text, _BYTES):
        raise TypeError(f"{VERB}: text {index} must be a text or token ids, not {_kind(text)}")
    if isinstance(text, Sequence) and all(isinstance(one, int) and not isinstance(one, bool) for one in text):
        return list(text)
    raise TypeError(f"{VERB}: text {index} must be a text or token ids, not {text!r}"[:300])


def _kind(value: Any) -> str:
    name = type(value).__name__
    return f"{name}: bytes are no text, decode them first" if isinstance(value, _BYTES) else name
