"""SequenceText: the output of one sequence as text, and the stop strings in it."""

from __future__ import annotations

from typing import TypeAlias

from .detokenizer import Detokenizer
from .stop_strings import ROOT, StopStrings


class SequenceText:
    """Text that can be shown leaves at once; what may still become a stop string waits.

    The first stop string to be complete ends the text; of several complete at once, the longest. Those that begin
    before token number `min_tokens` do not count.
    """

    def __init__(
        self, detokenizer: Detokenizer, stop: StopStrings | None = None, include_stop: bool = False, min_tokens: int = 0
    ) -> None:
        self._detokenizer = detokenizer
        self._stop = stop
        self._include_stop = include_stop
        self._num_unstoppable = min_tokens
        self._state = ROOT
        self._held = ""
        self._ready = ""
        self._stopped = False

    def push(self, token_id: int) -> bool:
        """Take a token; True when a stop string is complete. It and what follows it are dropped, or it is the end."""
        piece = self._detokenizer.push(token_id)
        if self._stop is None:
            self._ready += piece
            return False
        if self._num_unstoppable > 0:
            self._num_unstoppable -= 1
            if self._num_unstoppable > 0:
                self._ready += piece
                return False
        return self._extend(piece)

    def take(self) -> str:
        """The text that became ready since the last call."""
        ready, self._ready = self._ready, ""
        return ready

    def finish(self) -> None:
        """No more tokens: what was held is ready now."""
        if self._stopped:
            return
        piece = self._detokenizer.flush()
        if not self._extend(piece):
            self._ready += self._held
            self._held = ""

    def _extend(self, piece: str) -> bool:
        if self._stop is None or (self._state == ROOT and self._stop.cannot_begin(piece)):
            self._ready += piece
            return False
        self._state, num_read, num_found = self._stop.advance(self._state, piece)
        text = self._held + piece[:num_read]
        if num_found:
            self._ready += text if self._include_stop else text[: len(text) - num_found]
            self._held = ""
            self._stopped = True
            return True
        num_held = self._stop.depths[self._state]
        self._ready += text[: len(text) - num_held]
        self._held = text[len(text) - num_held :]
        return False


class NoText:
    """For sequences whose text nobody wants: takes tokens, gives none."""

    def push(self, token_id: int) -> bool:
        return False

    def take(self) -> str:
        return ""

    def finish(self) -> None:
        pass


Text: TypeAlias = SequenceText | NoText
