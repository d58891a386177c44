"""How many texts may wait for their vectors."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from .api_error import ApiError


class TextRoom:
    def __init__(self, max_texts: int) -> None:
        """max_texts: those that may wait, of all requests."""
        self._max_texts = max_texts
        self._num_texts = 0

    @contextmanager
    def hold(self, num_texts: int) -> Iterator[None]:
        """Raises ApiError 503 where they are too many now."""
        if self._num_texts + num_texts > self._max_texts:
            text = f"{self._num_texts} texts wait, of {self._max_texts} that this server takes; try again later"
            raise ApiError(503, text, code="queue_full", headers={"retry-after": "1"})
        self._num_texts += num_texts
        try:
            yield
        finally:
            self._num_texts -= num_texts
