"""StopStrings: thousands of strings looked for at once, in text that comes in pieces (Aho and Corasick, 1975).

A state is the longest end of the text so far that some stop string begins with; a character leads to the next state.
That end is also just what must be held back, so both questions cost one dictionary look-up per character, however many
strings there are.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable
from functools import lru_cache

ROOT = 0


class StopStrings:
    """The automaton: shared by all sequences with these stop strings, which keep their own state."""

    def __init__(self, strings: Iterable[str]) -> None:
        self._next: list[dict[str, int]] = [{}]
        self._fallback = [ROOT]  # the state of the longest proper end of this state's text
        self.depths = [0]
        """How much text a state holds, in characters."""
        self._found = [0]  # length of the longest stop string that ends at this state
        for string in strings:
            self._insert(string)
        self._link()
        self._first = frozenset(self._next[ROOT])

    def cannot_begin(self, text: str) -> bool:
        """Whether a text after ROOT leads to ROOT: most do, and need no look at each character."""
        return self._first.isdisjoint(text)

    def advance(self, state: int, text: str) -> tuple[int, int, int]:
        """(state, how many characters were read, length of the stop string that ended there or 0 at the end)."""
        following, fallback, found = self._next, self._fallback, self._found
        for count, character in enumerate(text, 1):
            while (target := following[state].get(character)) is None and state != ROOT:
                state = fallback[state]
            state = ROOT if target is None else target
            if found[state]:
                return state, count, found[state]
        return state, len(text), 0

    def _insert(self, string: str) -> None:
        state = ROOT
        for character in string:
            target = self._next[state].get(character)
            if target is None:
                target = self._next[state][character] = len(self._next)
                self._next.append({})
                self._fallback.append(ROOT)
                self.depths.append(self.depths[state] + 1)
                self._found.append(0)
            state = target
        self._found[state] = len(string)

    def _link(self) -> None:
        """Fallbacks, shorter texts first, as each is found from that of its start."""
        waiting = deque(self._next[ROOT].values())
        while waiting:
            state = waiting.popleft()
            for character, target in self._next[state].items():
                fallback = self._fallback[state]
                while (known := self._next[fallback].get(character)) is None and fallback != ROOT:
                    fallback = self._fallback[fallback]
                self._fallback[target] = ROOT if known is None else known
                self._found[target] = self._found[target] or self._found[self._fallback[target]]
                waiting.append(target)


@lru_cache(maxsize=8)  # each may take tens of megabytes
def stop_strings(strings: tuple[str, ...]) -> StopStrings:
    """Built once for the sequences that ask for the same strings."""
    return StopStrings(strings)
