"""PromptTree: which engine holds the KV of which beginnings of prompts (the global prompt tree of DeepServe 2.11)."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Iterable, Sequence
from typing import Literal, NamedTuple

Residence = Literal["expected", "device", "host", "file"]
"""`expected`: on the device soon: a prompt with it was routed there, and the engine has not said so yet."""

TIERS: dict[Residence, int] = {"expected": 0, "device": 0, "host": 1, "file": 2}


class Match(NamedTuple):
    """Leading blocks of a prompt that an engine holds: on its device (or soon), then in its host's memory, in files."""

    device: int = 0
    host: int = 0
    file: int = 0

    @property
    def blocks(self) -> int:
        return self.device + self.host + self.file

    def one_more(self, tier: int) -> Match:
        """Nothing is faster to reach than its beginning."""
        slowest = 2 if self.file else 1 if self.host else 0
        tier = max(tier, slowest)
        return Match(self.device + (tier == 0), self.host + (tier == 1), self.file + (tier == 2))


NO_MATCH = Match()


class PromptTree:
    """A tree without edges: the name of a beginning stands for all blocks up to its last, so a prompt's names are its
    way from the root, and a match is as many leading names as an engine holds.

    At most `max_entries` pairs of a name and an engine are remembered: the least recently matched name goes first, and
    of one prompt the longest, so that beginnings outlive what they lead to. What is forgotten costs a detour.
    Engines correct it (`note`): they say what they have computed and what they have given up.
    """

    def __init__(self, max_entries: int = 100_000) -> None:
        self._max_entries = max_entries
        self._holders: OrderedDict[int, dict[str, Residence]] = OrderedDict()
        """By name, the least recently used first."""
        self._held: dict[str, set[int]] = {}
        """By engine."""
        self._num_entries = 0

    def __len__(self) -> int:
        return self._num_entries

    def match(self, names: Sequence[int]) -> dict[str, Match]:
        """By engine that holds at least the first block."""
        found: dict[str, Match] = {}
        going_on: set[str] | None = None
        num_matched = 0
        for name in names:
            holders = self._holders.get(name)
            if holders is None:
                break
            going_on = set(holders) if going_on is None else going_on & holders.keys()
            if not going_on:
                break
            num_matched += 1
            for engine_id in going_on:
                found[engine_id] = found.get(engine_id, NO_MATCH).one_more(TIERS[holders[engine_id]])
        self._touch(names[:num_matched])
        return found

    def expect(self, engine_id: str, names: Sequence[int]) -> None:
        """A prompt was routed there: until the engine says more, the next one like it belongs there, too."""
        for name in names:
            if engine_id not in self._holders.get(name, ()):
                self._put(engine_id, name, "expected")
        self._touch(names)
        self._forget_oldest()

    def settle(self, engine_id: str, names: Iterable[int]) -> None:
        """That prompt has left the engine, which has said what it holds: what is still expected will not come."""
        for name in names:
            if self._holders.get(name, {}).get(engine_id) == "expected":
                self._drop(engine_id, name)

    def note(self, engine_id: str, residence: Residence | None, names: Iterable[int]) -> None:
        """From the engine: it holds these there now; None: no more."""
        for name in names:
            if residence is not None:
                self._put(engine_id, name, residence)
            elif engine_id in self._holders.get(name, ()):
                self._drop(engine_id, name)
        self._forget_oldest()

    def remove(self, engine_id: str) -> None:
        """The engine is gone."""
        for name in list(self._held.get(engine_id, ())):
            self._drop(engine_id, name)

    def _put(self, engine_id: str, name: int, residence: Residence) -> None:
        holders = self._holders.setdefault(name, {})
        self._num_entries += engine_id not in holders
        holders[engine_id] = residence
        self._held.setdefault(engine_id, set()).add(name)

    def _drop(self, engine_id: str, name: int) -> None:
        holders, held = self._holders[name], self._held[engine_id]
        del holders[engine_id]
        held.discard(name)
        self._num_entries -= 1
        if not holders:
            del self._holders[name]
        if not held:
            del self._held[engine_id]

    def _touch(self, names: Sequence[int]) -> None:
        for name in reversed(names):
            if name in self._holders:
                self._holders.move_to_end(name)

    def _forget_oldest(self) -> None:
        while self._num_entries > self._max_entries:
            name, holders = next(iter(self._holders.items()))
            for engine_id in list(holders):
                self._drop(engine_id, name)

    def check_invariants(self) -> None:
        by_engine: dict[str, set[int]] = {}
        for name, holders in self._holders.items():
            assert holders, f"{name:x} is remembered and nobody holds it"
            for engine_id in holders:
                by_engine.setdefault(engine_id, set()).add(name)
        assert by_engine == self._held, "what engines hold is told two ways"
        assert sum(map(len, by_engine.values())) == self._num_entries, f"{self._num_entries} entries miscounted"
        assert self._num_entries <= self._max_entries, f"{self._num_entries} of at most {self._max_entries} entries"
