"""TokenText: single tokens as the API shows them in log probabilities, as text and as bytes.

Decoding a token alone would lose its leading blank in some vocabularies and its bytes where it is half a character, so
they are looked up in the vocabulary.
"""

from __future__ import annotations

from ..token_texts import TokenTexts
from ..tokenizer import Tokenizer


class TokenText:
    def __init__(self, tokenizer: Tokenizer) -> None:
        self._tokenizer = tokenizer
        self._texts = TokenTexts.of(tokenizer, skip_special_tokens=False)

    def token(self, token_id: int) -> tuple[str, bytes]:
        """Text, with U+FFFD for what is no character alone, and bytes. Both empty for an id without a token."""
        if self._texts is not None:
            raw = self._texts.part(token_id)
        else:  # a decoder of its own kind: the tokenizer alone can tell
            raw = self._tokenizer.decode([token_id], skip_special_tokens=False).encode("utf-8", "replace")
        return raw.decode("utf-8", "replace"), raw
