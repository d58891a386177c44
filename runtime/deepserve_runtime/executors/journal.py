"""Journal: the tokens of a sequence as they leave its pod, so that another pod can go on behind them."""

from __future__ import annotations

import secrets
from array import array
from collections.abc import Iterable
from hashlib import blake2b

NONCE_BYTES = 8
TOKEN = "I"
"""Four bytes in the order of the machine; the hosts of one controller are of one kind."""


class Journal:
    """As bytes: a nonce, then the token ids.

    The nonce is what else an answer has that does not follow from its tokens: it stands for the seed where none was
    asked for, and makes the ids of tool calls, which the caller may have got from an earlier attempt.

    data: what earlier attempts have said; empty for the first. The controller puts together what it is told.
    """

    def __init__(self, data: bytes = b"") -> None:
        self.nonce = data[:NONCE_BYTES] or secrets.token_bytes(NONCE_BYTES)
        tokens = array(TOKEN)
        tokens.frombytes(data[NONCE_BYTES:])
        self.token_ids = tokens.tolist()
        """Of earlier attempts."""
        self._is_begun = bool(data)
        self._unsaid = array(TOKEN)

    @property
    def seed(self) -> int:
        return int.from_bytes(self.nonce, "little") >> 1

    @property
    def num_unsaid(self) -> int:
        return len(self._unsaid)

    def call_id(self, number: int) -> str:
        """Of the answer's tool call `number`, the same in each attempt."""
        return f"call_{blake2b(self.nonce + number.to_bytes(4, 'little'), digest_size=8).hexdigest()}"

    def add(self, token_ids: Iterable[int]) -> None:
        self._unsaid.extend(token_ids)

    def take(self) -> bytes:
        """What is new since the last time; it must travel with everything that follows from it."""
        if not self._unsaid:
            return b""
        data = self._unsaid.tobytes() if self._is_begun else self.nonce + self._unsaid.tobytes()
        self._is_begun = True
        del self._unsaid[:]
        return data
