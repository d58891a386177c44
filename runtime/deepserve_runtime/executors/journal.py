"""Journal: the tokens of a sequence as they leave its pod, so that another pod can go on behind them."""

from __future__ import annotations

import secrets
import time
from array import array
from collections.abc import Iterable
from hashlib import blake2b

TIME_BYTES = 4
NONCE_BYTES = 12
TOKEN = "I"
"""Four bytes in the order of the machine; the hosts of one controller are of one kind."""


class Journal:
    """As bytes: a nonce, then the token ids.

    The nonce is what else an answer has that does not follow from its tokens: when it began, the seed where none was
    asked for, and all ids in it, which the caller may have got from an earlier attempt.

    data: what earlier attempts have said; empty for the first. The controller puts together what it is told.
    """

    def __init__(self, data: bytes = b"") -> None:
        self.nonce = data[:NONCE_BYTES] or new_nonce()
        tokens = array(TOKEN)
        tokens.frombytes(data[NONCE_BYTES:])
        self.token_ids = tokens.tolist()
        """Of earlier attempts."""
        self._is_begun = bool(data)
        self._unsaid = array(TOKEN)

    @property
    def seed(self) -> int:
        return int.from_bytes(self.nonce[TIME_BYTES:], "little") >> 1

    @property
    def created_s(self) -> int:
        """Since 1970."""
        return int.from_bytes(self.nonce[:TIME_BYTES], "little")

    @property
    def num_unsaid(self) -> int:
        return len(self._unsaid)

    def call_id(self, number: int) -> str:
        """Of the answer's tool call `number`, the same in each attempt."""
        return f"call_{blake2b(self.nonce + number.to_bytes(4, 'little'), digest_size=8).hexdigest()}"

    def answer_id(self) -> str:
        """24 hexadecimal digits."""
        return blake2b(self.nonce, digest_size=12).hexdigest()

    def add(self, token_ids: Iterable[int]) -> None:
        self._unsaid.extend(token_ids)

    def take(self) -> bytes:
        """What is new since the last time, at first the nonce; it must travel with everything that follows from it."""
        if not self._unsaid and self._is_begun:
            return b""
        data = self._unsaid.tobytes() if self._is_begun else self.nonce + self._unsaid.tobytes()
        self._is_begun = True
        del self._unsaid[:]
        return data


def new_nonce() -> bytes:
    return int(time.time()).to_bytes(TIME_BYTES, "little") + secrets.token_bytes(NONCE_BYTES - TIME_BYTES)
