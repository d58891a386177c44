"""Detokenizers: the text of a sequence, token by token, never half a character.

The pieces joined are the text of all tokens after the prompt, bytes that are no UTF-8 as U+FFFD, exactly as if all had
been decoded at once. (One exception, with byte fallback: there, in a run of byte tokens, a broken byte makes U+FFFD of
the whole characters too. Those before it are out already when it comes.)
"""

from __future__ import annotations

import codecs
from collections.abc import Sequence
from typing import Protocol

from .token_texts import TokenTexts
from .tokenizer import Tokenizer

_REPLACEMENT = "\ufffd"  # what decoders write for bytes that are no UTF-8 (yet)
_MAX_HELD_TOKENS = 16  # a character has at most four bytes; longer runs are not going to become one
_CONTEXT_TOKENS = 6


class Detokenizer(Protocol):
    def push(self, token_id: int) -> str:
        """The new text; "" while a character is incomplete."""

    def flush(self) -> str:
        """What was held back, incomplete characters as U+FFFD. For the end of a sequence."""


class DetokenizerFactory:
    """Detokenizers for sequences of one tokenizer, which share what they learn of its tokens."""

    def __init__(self, tokenizer: Tokenizer) -> None:
        self._tokenizer = tokenizer
        self._texts: dict[bool, TokenTexts | None] = {}

    def make(self, prompt_ids: Sequence[int] = (), skip_special_tokens: bool = True) -> Detokenizer:
        """For the tokens behind a prompt."""
        if skip_special_tokens not in self._texts:
            self._texts[skip_special_tokens] = TokenTexts.of(self._tokenizer, skip_special_tokens)
        if (texts := self._texts[skip_special_tokens]) is not None:
            return TableDetokenizer(texts, prompt_ids)
        return WindowDetokenizer(self._tokenizer, prompt_ids, skip_special_tokens)


class TableDetokenizer:
    """Adds up what the tokens say: 0.1 microseconds for a token of whole characters."""

    def __init__(self, texts: TokenTexts, prompt_ids: Sequence[int] = ()) -> None:
        self._whole = texts.whole
        self._texts = texts
        self._decoder = codecs.getincrementaldecoder("utf-8")(texts.errors)
        self._at_start = texts.strips_blank and texts.is_silent(prompt_ids)
        self._is_special = self._at_start  # something is to be looked at before a whole token's text may leave

    def push(self, token_id: int) -> str:
        if not self._is_special and (text := self._whole.get(token_id)) is not None:
            return text
        return self._push_part(token_id)

    def flush(self) -> str:
        self._is_special = self._at_start
        return self._strip(self._decoder.decode(b"", final=True))

    def _push_part(self, token_id: int) -> str:
        before = ""
        if self._texts.is_plain(token_id):  # the run of byte tokens is over
            before = self._decoder.decode(b"", final=True)
            self._decoder.reset()
        text = self._strip(before + self._decoder.decode(self._texts.part(token_id)))
        self._is_special = self._at_start or bool(self._decoder.getstate()[0])
        return text

    def _strip(self, text: str) -> str:
        if self._at_start and text:
            self._at_start = False
            return text.removeprefix(" ")
        return text


class WindowDetokenizer:
    """For any decoder: a token's text may depend on its neighbours in ways that only the tokenizer knows.

    Each piece is the difference of two decodings of a short window that starts at the last place where the text was
    complete; 10 microseconds a token.
    """

    def __init__(self, tokenizer: Tokenizer, prompt_ids: Sequence[int] = (), skip_special_tokens: bool = True) -> None:
        self._tokenizer = tokenizer
        self._skip_special_tokens = skip_special_tokens
        self._window = list(prompt_ids[-_CONTEXT_TOKENS:])
        self._num_read = len(self._window)  # leading tokens of the window whose text is out
        self._shown = self._decode(self._window).rstrip(_REPLACEMENT)

    def push(self, token_id: int) -> str:
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
        return self._show(self._decode(self._window)) if self._num_read < len(self._window) else ""

    def _show(self, text: str) -> str:
        piece = text[len(self._shown) :]
        self._window = self._window[self._num_read :]
        self._num_read = len(self._window)
        self._shown = self._decode(self._window)
        return piece

    def _decode(self, token_ids: Sequence[int]) -> str:
        return self._tokenizer.decode(token_ids, skip_special_tokens=self._skip_special_tokens)
