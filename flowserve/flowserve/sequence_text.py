"""SequenceText: the output of one sequence as text, and the stop strings in it."""

from __future__ import annotations

from collections.abc import Sequence

from .detokenizer import Detokenizer


class SequenceText:
    """Text that can be shown leaves at once; what may still become a stop string waits."""

    def __init__(self, detokenizer: Detokenizer, stop: Sequence[str]) -> None:
        self._detokenizer = detokenizer
        self._stop = tuple(stop)
        self._held = ""
        self._ready = ""
        self._stopped = False

    def push(self, token_id: int) -> bool:
        """Take a token; True when a stop string is complete. It and what follows it are dropped."""
        return self._extend(self._detokenizer.push(token_id))

    def take(self) -> str:
        """The text that became ready since the last call."""
        ready, self._ready = self._ready, ""
        return ready

    def finish(self) -> None:
        """No more tokens: what was held is ready now."""
        if not self._stopped and not self._extend(self._detokenizer.flush()):
            self._ready += self._held
            self._held = ""

    def _extend(self, piece: str) -> bool:
        text = self._held + piece
        hits = [index for index in (text.find(stop) for stop in self._stop) if index >= 0]
        if hits:
            self._ready += text[: min(hits)]
            self._held = ""
            self._stopped = True
            return True
        keep = max((_overlap(text, stop) for stop in self._stop), default=0)
        self._ready += text[: len(text) - keep]
        self._held = text[len(text) - keep :]
        return False


def _overlap(text: str, stop: str) -> int:
    """Length of the longest end of `text` that is a proper start of `stop`."""
    for length in range(min(len(stop) - 1, len(text)), 0, -1):
        if text.endswith(stop[:length]):
            return length
    return 0
