"""TokenText: single tokens as the API shows them in log probabilities, as text and as bytes.

Decoding a token alone would lose its leading blank in some vocabularies and its bytes where it is half a character, so
the vocabulary's own spelling is read: byte-level BPE writes each byte as a letter, sentencepiece a blank as ▁.
"""

from __future__ import annotations

import json
import re
from functools import lru_cache

from ..tokenizer import Tokenizer

_BYTE = re.compile(r"<0x([0-9A-Fa-f]{2})>")


class TokenText:
    def __init__(self, tokenizer: Tokenizer) -> None:
        self._tokenizer = tokenizer
        settings = json.loads(tokenizer.to_json())
        self._is_byte_level = "ByteLevel" in json.dumps([settings.get("decoder"), settings.get("pre_tokenizer")])
        self._added = {entry["id"]: str(entry["content"]) for entry in settings.get("added_tokens") or []}
        self.token = lru_cache(maxsize=1 << 16)(self._token)

    def _token(self, token_id: int) -> tuple[str, bytes]:
        """Text, with U+FFFD for what is no character alone, and bytes. Both empty for an id without a token."""
        raw = self._bytes(token_id)
        return raw.decode("utf-8", "replace"), raw

    def _bytes(self, token_id: int) -> bytes:
        if token_id in self._added:
            return self._added[token_id].encode()
        piece = self._tokenizer.token(token_id)
        if piece is None:
            return b""
        if self._is_byte_level:
            return b"".join(_LETTERS[letter] if letter in _LETTERS else letter.encode() for letter in piece)
        if byte := _BYTE.fullmatch(piece):
            return bytes([int(byte[1], 16)])
        return piece.replace("▁", " ").encode()


def _byte_letters() -> dict[str, bytes]:
    """The letters of GPT-2's vocabularies: printable bytes are themselves, the others follow from U+0100 on."""
    printable = [*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)]
    others = [byte for byte in range(256) if byte not in printable]
    letters = {chr(byte): bytes([byte]) for byte in printable}
    return letters | {chr(0x100 + index): bytes([byte]) for index, byte in enumerate(others)}


_LETTERS = _byte_letters()
