"""Tokenizer: text to token ids and back, from tokenizer.json. Needs no torch and no transformers."""

from __future__ import annotations

from collections.abc import Iterable
from functools import cached_property
from pathlib import Path
from typing import Any

from tokenizers import Tokenizer as RustTokenizer
from tokenizers.models import BPE

from .errors import InvalidPromptError, ModelNotFoundError, PromptTooLongError, TokenizerError
from .models.config import read_eos_token_ids
from .models.json_fields import read_json

_CHARS_A_TOKEN = 16
"""A text with fewer of them for each token that may be is encoded without a look at the vocabulary."""

_MANY_CHARS = 1 << 12
"""A longer text takes milliseconds to encode, in which other threads go on; for a shorter one it is not worth it."""

MAX_CHARS = 1 << 20
"""Of a text that need not fit a context of few tokens: a second to encode, and some 150 bytes for each of them."""


def check_fits_context(num_tokens: int, max_tokens: int) -> None:
    """Raises PromptTooLongError for a prompt of so many tokens that the context has no room for one more."""
    if num_tokens >= max_tokens:
        raise PromptTooLongError(
            f"prompt of {num_tokens} tokens does not fit the context of {max_tokens} tokens with room for one more"
        )


class Tokenizer:
    """eos_token_ids: ids that end a sequence, first the main one; empty when the folder names none."""

    def __init__(self, rust: RustTokenizer, eos_token_ids: tuple[int, ...]) -> None:
        self._rust = rust
        self._rust.no_padding()  # settings of training that some tokenizer.json files still carry
        self._rust.no_truncation()
        self.eos_token_ids = eos_token_ids

    @classmethod
    def from_folder(cls, folder: str | Path) -> Tokenizer:
        """Raises ModelNotFoundError without a folder, TokenizerError for a missing or unusable tokenizer.json."""
        folder = Path(folder)
        if not folder.is_dir():
            raise ModelNotFoundError(f"no model folder {str(folder)!r}")
        path = folder / "tokenizer.json"
        if not path.is_file():
            raise TokenizerError(f"{folder}: no tokenizer.json (sentencepiece files must be converted first)")
        try:
            rust = RustTokenizer.from_file(str(path))
        except Exception as error:  # the binding raises plain Exception
            raise TokenizerError(f"{path}: {error}") from error
        return cls(rust, read_eos_token_ids(folder) or _eos_by_name(folder, rust))

    @property
    def vocab_size(self) -> int:
        """Tokens with added ones; the model's vocabulary may be padded beyond it."""
        return int(self._rust.get_vocab_size(with_added_tokens=True))

    def check_fits(self, vocab_size: int) -> None:
        """Raises TokenizerError where a model with a vocabulary of this size does not know every token."""
        highest = max((token_id for token_id in self._rust.get_added_tokens_decoder()), default=-1)
        num_ids = max(self.vocab_size, highest + 1)
        if num_ids > vocab_size:
            raise TokenizerError(
                f"the tokenizer has {num_ids} tokens, the model's vocabulary only {vocab_size}:"
                " they do not belong together"
            )

    def check_length(self, text: str, max_tokens: int) -> None:
        """Told by the longest token there is, as vLLM does: encoding megabytes takes seconds, only to be refused then.

        Raises PromptTooLongError for a text that cannot be so few tokens; one that passes may still be too many.
        """
        if len(text) <= max_tokens * _CHARS_A_TOKEN:
            return
        longest = self._longest_token
        if longest is not None and len(text) > max_tokens * longest:
            raise PromptTooLongError(
                f"prompt of {len(text)} characters does not fit the context of {max_tokens} tokens: no token of this"
                f" model is longer than {longest} characters, so it is at least {-(-len(text) // longest)} tokens"
            )

    def check_readable(self, text: str, max_tokens: int) -> None:
        """For a text of which the tokens are counted or cut: it may be longer than the context of `max_tokens`.

        Raises PromptTooLongError for one that would take long to encode.
        """
        most = max(MAX_CHARS, max_tokens * _CHARS_A_TOKEN)
        if len(text) > most:
            raise PromptTooLongError(
                f"a text of {len(text)} characters is more than is read at a time, {most}: split it"
            )

    @cached_property
    def _longest_token(self) -> int | None:
        """Characters; None where a word that is not in the vocabulary is one token, however long it is."""
        model = self._rust.model
        tells_bytes = isinstance(model, BPE) and (model.byte_fallback or "ByteLevel" in (self.decoder_json() or ""))
        return max(map(len, self._rust.get_vocab())) if tells_bytes else None

    def encode(self, text: str, add_special_tokens: bool = True) -> list[int]:
        """Token ids. `add_special_tokens` is for plain prompts; a rendered chat has its own special tokens.

        Raises InvalidPromptError for half a character (a lone surrogate), as broken JSON may bring one.
        """
        return list(self._encoding(text, add_special_tokens).ids)

    def encode_within(self, text: str, max_tokens: int) -> list[int]:
        """As `encode`, cut to so many tokens; the special tokens around a text stay."""
        encoding = self._encoding(text, add_special_tokens=False)
        encoding.truncate(max(0, max_tokens - self._rust.num_special_tokens_to_add(is_pair=False)))
        return list(self._rust.post_process(encoding).ids)

    def _encoding(self, text: str, add_special_tokens: bool) -> Any:
        """Of what the binding has, only batches let other threads go on."""
        try:
            if len(text) < _MANY_CHARS:
                return self._rust.encode(text, add_special_tokens=add_special_tokens)
            [encoding] = self._rust.encode_batch_fast([text], add_special_tokens=add_special_tokens)
        except TypeError as error:
            raise InvalidPromptError(f"the text is no valid Unicode: {_unicode_error(text)}") from error
        return encoding

    def decode(self, token_ids: Iterable[int], skip_special_tokens: bool = True) -> str:
        """Text; bytes that are no UTF-8 become U+FFFD, ids outside the vocabulary nothing."""
        return str(self._rust.decode(list(token_ids), skip_special_tokens=skip_special_tokens))

    def token_id(self, token: str) -> int | None:
        """The id of one token by its exact text, such as "<|im_end|>"."""
        found: int | None = self._rust.token_to_id(token)
        return found

    def token(self, token_id: int) -> str | None:
        """A token as it stands in the vocabulary, which is not yet text; None for an id beyond it."""
        if not 0 <= token_id < 1 << 32:  # the binding's own range
            return None
        found: str | None = self._rust.id_to_token(token_id)
        return found

    @cached_property
    def special_token_ids(self) -> frozenset[int]:
        """Ids that `decode` skips."""
        added = self._rust.get_added_tokens_decoder()
        return frozenset(token_id for token_id, token in added.items() if token.special)

    def decoder_json(self) -> str | None:
        """The part of tokenizer.json that makes text of tokens."""
        decoder = self._rust.decoder
        return None if decoder is None else decoder.__getstate__().decode()

    def to_json(self) -> str:
        return str(self._rust.to_str())


def _unicode_error(text: str) -> str:
    try:
        text.encode()
    except UnicodeEncodeError as error:
        return f"{error.reason} at character {error.start}"
    return "not a string"


def _eos_by_name(folder: Path, rust: RustTokenizer) -> tuple[int, ...]:
    path = folder / "tokenizer_config.json"
    token: Any = read_json(path).get("eos_token") if path.is_file() else None
    if isinstance(token, dict):
        token = token.get("content")
    token_id = rust.token_to_id(token) if isinstance(token, str) else None
    return () if token_id is None else (token_id,)
