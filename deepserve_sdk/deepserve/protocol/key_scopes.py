"""What a key of the OpenAI API may be bound to."""

from __future__ import annotations

SCOPES = ("models", "chat", "completions", "embeddings", "responses", "tokenize")
"""One endpoint each (`chat` also contexts, `tokenize` both ways). Every key lists the models that it may use."""
