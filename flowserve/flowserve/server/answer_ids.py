"""AnswerIds: the ids in one answer."""

from __future__ import annotations

import secrets
from hashlib import blake2b


class AnswerIds:
    """All follow from `seed`, so that an answer that was begun elsewhere names the same things the same.

    seed: 24 hexadecimal digits; None = of a new answer.
    """

    def __init__(self, seed: str | None = None) -> None:
        self.seed = seed or secrets.token_hex(12)

    def answer(self, prefix: str) -> str:
        return f"{prefix}{self.seed}"

    def call(self, choice: int, number: int) -> str:
        """Of one of a choice's tool calls."""
        return self._made(f"call {choice} {number}", "call_")

    def item(self, prefix: str, number: int) -> str:
        """Of an item of a response's output."""
        return self._made(f"item {number}", prefix)

    def _made(self, what: str, prefix: str) -> str:
        return prefix + blake2b(f"{self.seed} {what}".encode(), digest_size=12).hexdigest()
