"""TokenTexts: what each token of a tokenizer says, looked up once, so that reading a token costs a dictionary.

A decoder is a small program in tokenizer.json. Two of them cover nearly all language models: byte-level (GPT-2,
Llama 3, Qwen), in which every token is a string of bytes, and sentencepiece's with byte fallback (Llama 2, Mistral,
Phi-3), in which tokens are text with `▁` for blanks and `<0xE2>` for bytes. Under both a text is the sum of its tokens,
up to characters split over tokens and one blank at the very start.
"""

from __future__ import annotations

import codecs
import json
import re
from collections.abc import Sequence

from .tokenizer import Tokenizer

_BYTE_TOKEN = re.compile("<0x([0-9A-Fa-f]{2})>")


class TokenTexts:
    """Texts and bytes of the tokens of one tokenizer.

    errors: how `codecs` decoders write bytes that are no UTF-8, so that the whole is as tokenizers decodes it.
    strips_blank: a blank at the very start of a text is dropped.
    """

    def __init__(
        self, tokenizer: Tokenizer, is_byte_level: bool, strips_blank: bool, skip_special_tokens: bool
    ) -> None:
        self._tokenizer = tokenizer
        self._is_byte_level = is_byte_level
        self.strips_blank = strips_blank
        self.errors = "replace" if is_byte_level else _EACH_BYTE
        self._special_ids = tokenizer.special_token_ids if skip_special_tokens else frozenset()
        self.whole: dict[int, str] = {}
        """Of tokens met so far that hold no part of a character: their text."""
        self._parts: dict[int, bytes] = {}

    @classmethod
    def of(cls, tokenizer: Tokenizer, skip_special_tokens: bool) -> TokenTexts | None:
        """None where the tokenizer's decoder is another one: then only the tokenizer itself can decode."""
        kind = _kind(tokenizer.decoder_json())
        if kind is None:
            return None
        is_byte_level, strips_blank = kind
        return cls(tokenizer, is_byte_level, strips_blank, skip_special_tokens)

    def is_silent(self, token_ids: Sequence[int]) -> bool:
        """Whether a text of these tokens is empty."""
        return all(not self.part(token_id) for token_id in token_ids)

    def part(self, token_id: int) -> bytes:
        """The bytes of any token; those of a whole one are its text in UTF-8."""
        if (whole := self.whole.get(token_id)) is not None:
            return whole.encode("utf-8", "surrogatepass")
        if (part := self._parts.get(token_id)) is None:
            part = self._parts[token_id] = self._look_up(token_id)
        return part

    def is_plain(self, token_id: int) -> bool:
        """Whether the token is text, behind which a character begun by byte tokens cannot go on."""
        if self._is_byte_level or token_id in self._special_ids:
            return False
        token = self._tokenizer.token(token_id)
        return token is not None and _BYTE_TOKEN.fullmatch(token) is None

    def _look_up(self, token_id: int) -> bytes:
        token = self._tokenizer.token(token_id)
        if token is None or token_id in self._special_ids:
            self.whole[token_id] = ""
            return b""
        part = _byte_level_part(token) if self._is_byte_level else _fallback_part(token)
        try:
            self.whole[token_id] = part.decode()
        except UnicodeDecodeError:
            pass
        return part


def _byte_level_part(token: str) -> bytes:
    try:
        return bytes([_BYTE_OF[character] for character in token])
    except KeyError:  # an added token with characters that stand for no byte
        return token.encode()


def _fallback_part(token: str) -> bytes:
    if (match := _BYTE_TOKEN.fullmatch(token)) is not None:
        return bytes([int(match[1], 16)])
    return token.replace("▁", " ").encode()


def _kind(decoder: str | None) -> tuple[bool, bool] | None:
    """(is it byte-level, does it strip a blank) of a decoder that is known here."""
    found = json.loads(decoder) if decoder else None
    steps = found.get("decoders", [found]) if isinstance(found, dict) else []
    names = [step.get("type") for step in steps]
    if names == ["ByteLevel"]:
        return True, False
    if names[:3] != ["Replace", "ByteFallback", "Fuse"] or names[3:] not in ([], ["Strip"]):
        return None
    if steps[0].get("pattern") != {"String": "▁"} or steps[0].get("content") != " ":
        return None
    if names[3:] and [steps[3].get(name) for name in ("content", "start", "stop")] != [" ", 1, 0]:
        return None
    return False, bool(names[3:])


def _byte_of() -> dict[str, int]:
    """GPT-2's alphabet: printable bytes as themselves, the others from U+0100 on."""
    printable = [*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)]
    others = [byte for byte in range(256) if byte not in printable]
    return {chr(byte): byte for byte in printable} | {chr(0x100 + i): byte for i, byte in enumerate(others)}


_BYTE_OF = _byte_of()
_EACH_BYTE = "flowserve.each_byte"


def _replace_each_byte(error: UnicodeError) -> tuple[str, int]:
    assert isinstance(error, UnicodeDecodeError)
    return "\ufffd" * (error.end - error.start), error.end


codecs.register_error(_EACH_BYTE, _replace_each_byte)
