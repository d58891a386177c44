"""Detokenizer: the text of a sequence, piece by piece, never half a character."""

from __future__ import annotations

from collections.abc import Sequence

from .tokenizer import Tokenizer

_REPLACEMENT = "\ufffd"  # what decoders write for bytes that are no UTF-8 (yet)
_MAX_HELD_TOKENS = 16  # a character has at most four bytes; longer runs are not going to become one
_CONTEXT_TOKENS = 6


class Detokenizer:
    """Feed tokens, get text. The pieces joined are the text of all tokens after the prompt.

    A token's text depends on its neighbours (leading spaces, characters split over tokens), so each piece is the
    difference of two decodings of a short window that starts at the last place where the text was complete.
    """

    def __init__(self, tokenizer: Tokenizer, prompt_ids: Sequence[int] = (), skip_special_tokens: bool = True) -> None:
        self._tokenizer = tokenizer
        self._skip_special_tokens = skip_special_tokens
        self._window = list(prompt_ids[-_CONTEXT_TOKENS:])
        self._num_read = len(self._window)  # leading tokens of the window whose text is out
        self._shown = self._decode(self._window).rstrip(_REPLACEMENT)

    def push(self, token_id: int) -> str:
        """The new text; "" while a character is incomplete."""
        self._window.append(token_id)
        text = self._decode(self._window)
        if not text.endswith(_REPLACEMENT):
            return self._show(text)
        if len(self._window) - self._num_read < _MAX_HELD_TOKENS:
            return ""
        piece = text[len(self._shown) : -1]  # only the last can still become a character
        self._shown += piece
        return piece

    def flush(self) -> str:
        """What was held back, incomplete characters as U+FFFD. For the end of a sequence."""
        return self._show(self._decode(self._window)) if self._num_read < len(self._window) else ""

    def _show(self, text: str) -> str:
        piece = text[len(self._shown) :]
        self._window = self._window[self._num_read :]
        self._num_read = len(self._window)
        self._shown = self._decode(self._window)
        return piece

    def _decode(self, token_ids: Sequence[int]) -> str:
        return self._tokenizer.decode(token_ids, skip_special_tokens=self._skip_special_tokens)
