"""Keys and names that cannot be guessed. (`secrets` and `hmac` would load OpenSSL, of which nothing is needed here.)"""

from __future__ import annotations

import os
from _operator import _compare_digest  # what hmac.compare_digest is


def new_token() -> str:
    """256 random bits."""
    return os.urandom(32).hex()


def new_name(num_bytes: int) -> str:
    return os.urandom(num_bytes).hex()


def is_same(one: str, other: str) -> bool:
    """Takes the same time wherever they differ."""
    return _compare_digest(one.encode("utf-8", "surrogateescape"), other.encode("utf-8", "surrogateescape"))
