"""EmbeddingTexts: texts as the token ids that an embedding model gets of them."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from .errors import InvalidPromptError, PromptTooLongError
from .tokenizer import Tokenizer

_BYTES = (bytes, bytearray, memoryview)
"""They could be taken for token ids."""


class EmbeddingTexts:
    def __init__(
        self, tokenizer: Tokenizer, vocab_size: int, max_length: int, prompt: str = "", lowers_case: bool = False
    ) -> None:
        """max_length: tokens of the longest text.  prompt, lowers_case: see PoolingConfig."""
        self._tokenizer = tokenizer
        self._vocab_size = vocab_size
        self._max_length = max_length
        self._prompt = prompt
        self._lowers_case = lowers_case

    def tokenize(self, texts: str | Sequence[str | Sequence[int]], *, truncate: bool = False) -> list[list[int]]:
        """The token ids of each text, with special tokens; token ids are taken as they are. From any thread.

        truncate: cut texts that are too long instead of raising.
        Raises PromptTooLongError or InvalidPromptError, which say which text is at fault.
        """
        if not isinstance(texts, Iterable) or isinstance(texts, _BYTES):
            raise InvalidPromptError(f"texts must be a text or a list of texts or token ids, got {texts!r}")
        listed = [texts] if isinstance(texts, str) else list(texts)
        return [self._tokenize(index, text, truncate) for index, text in enumerate(listed)]

    def _tokenize(self, index: int, text: str | Sequence[int], truncate: bool) -> list[int]:
        token_ids = self._encode(index, text, truncate) if isinstance(text, str) else self._check_ids(index, text)
        if len(token_ids) > self._max_length:
            if not truncate:
                raise PromptTooLongError(
                    f"text {index} has {len(token_ids)} tokens, the model takes {self._max_length}; "
                    "truncate=True (over HTTP: truncate_prompt_tokens=-1) cuts it"
                )
            token_ids = token_ids[: self._max_length]
        if not token_ids:
            raise InvalidPromptError(f"text {index} is empty")
        return token_ids

    def _encode(self, index: int, text: str, truncate: bool) -> list[int]:
        text = self._prompt + text
        text = text.lower() if self._lowers_case else text
        try:
            if not truncate:
                self._tokenizer.check_length(text, self._max_length)
            self._tokenizer.check_readable(text, self._max_length)
            if truncate:  # read whole: where its first tokens end may depend on what follows them
                return self._tokenizer.encode_within(text, self._max_length)
            return self._tokenizer.encode(text)
        except (InvalidPromptError, PromptTooLongError) as error:
            raise type(error)(f"text {index}: {error}") from error

    def _check_ids(self, index: int, token_ids: Sequence[int]) -> list[int]:
        if not isinstance(token_ids, Iterable) or isinstance(token_ids, _BYTES):
            raise InvalidPromptError(f"text {index} must be a text or token ids, got {token_ids!r}")
        for token_id in token_ids:
            if type(token_id) is not int or not 0 <= token_id < self._vocab_size:
                text = f"text {index}: token id {token_id!r} is not in the vocabulary of {self._vocab_size}"
                raise InvalidPromptError(text)
        return list(token_ids)
