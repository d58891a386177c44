"""PromptBlocks: what routing needs to know of a prompt: how long it is, and names for each of its beginnings."""

from __future__ import annotations

import struct
from collections.abc import Iterable

import msgspec

BLOCK_TOKENS = 32
"""Tokens of one KV block of hosted engines; tokenizers name the beginnings of prompts by the same blocks."""

NAME_BYTES = 8


class PromptBlocks(msgspec.Struct, frozen=True, omit_defaults=True):
    """`names`: one for each whole-block beginning of the prompt, shortest first, NAME_BYTES each.

    A name stands for all tokens up to the end of its block (the first bytes of FlowServe's `block_hashes`), so equal
    names mean equal beginnings. They are cut short: two that collide cost a detour, never an answer.
    """

    num_tokens: int
    names: bytes = b""
    block_tokens: int = BLOCK_TOKENS

    @property
    def num_blocks(self) -> int:
        """That its KV fills, the last one perhaps in part."""
        return -(-self.num_tokens // self.block_tokens)

    def beginnings(self) -> tuple[int, ...]:
        return unpack(self.names)


def pack(digests: Iterable[str]) -> bytes:
    """`digests`: in hexadecimal, as `block_hashes` gives them."""
    return b"".join(bytes.fromhex(digest[: 2 * NAME_BYTES]) for digest in digests)


def unpack(names: bytes) -> tuple[int, ...]:
    """A rest that is no whole name is left out."""
    return struct.unpack_from(f"<{len(names) // NAME_BYTES}Q", names)
