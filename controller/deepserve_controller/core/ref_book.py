"""RefBook: who still holds the values that `put` stored, and until when."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

import msgspec

NEVER_S = float("inf")


class RefRecord(msgspec.Struct):
    size_bytes: int
    until_s: float
    holds: dict[str, int] = {}
    """By link: how often it was given the ref and has not said that it let it go."""
    carriers: set[str] = msgspec.field(default_factory=set)


class RefBook:
    """A ref lives while a process holds it or a carrier needs it, and no longer than its time to live.

    A carrier is what may yet hand it to a process: a running request, a kept result, another stored value. What
    ends a life returns the names of the refs that died by it; those that died take along what only they carried.
    """

    def __init__(self) -> None:
        self._refs: dict[str, RefRecord] = {}
        self._of_link: dict[str, set[str]] = {}
        self._of_carrier: dict[str, set[str]] = {}

    def __len__(self) -> int:
        return len(self._refs)

    def __contains__(self, name: str) -> bool:
        return name in self._refs

    @property
    def total_bytes(self) -> int:
        return sum(ref.size_bytes for ref in self._refs.values())

    @property
    def next_end_s(self) -> float:
        """When the first time to live is over; NEVER_S where none is set."""
        return min((ref.until_s for ref in self._refs.values()), default=NEVER_S)

    def store(
        self, name: str, link_id: str, size_bytes: int, until_s: float = NEVER_S, inner: Iterable[str] = ()
    ) -> None:
        """`link_id` made it and holds it once. inner: refs inside the value."""
        if name in self._refs:
            return
        self._refs[name] = RefRecord(size_bytes, until_s)
        self.hold((name,), link_id)
        self.carry(inner, _inside(name))

    def hold(self, names: Iterable[str], link_id: str) -> None:
        """`link_id` was given them, once more. Names that are not known (any more) count for nothing."""
        for name in names:
            if (ref := self._refs.get(name)) is not None:
                ref.holds[link_id] = ref.holds.get(link_id, 0) + 1
                self._of_link.setdefault(link_id, set()).add(name)

    def carry(self, names: Iterable[str], carrier: str) -> None:
        for name in names:
            if (ref := self._refs.get(name)) is not None:
                ref.carriers.add(carrier)
                self._of_carrier.setdefault(carrier, set()).add(name)

    def release(self, counts: Mapping[str, int], link_id: str) -> list[str]:
        """`link_id` let each go, as often as it was given it."""
        gone: list[str] = []
        for name, count in counts.items():
            ref = self._refs.get(name)
            if ref is None or link_id not in ref.holds:
                continue
            ref.holds[link_id] -= count
            if ref.holds[link_id] <= 0:
                self._unhold(name, ref, link_id)
                self._end_if_free(name, gone)
        return gone

    def drop(self, carrier: str) -> list[str]:
        gone: list[str] = []
        for name in self._of_carrier.pop(carrier, ()):
            self._refs[name].carriers.discard(carrier)
            self._end_if_free(name, gone)
        return gone

    def link_closed(self, link_id: str) -> list[str]:
        gone: list[str] = []
        for name in self._of_link.pop(link_id, ()):
            self._refs[name].holds.pop(link_id, None)
            self._end_if_free(name, gone)
        return gone

    def delete(self, name: str) -> list[str]:
        """Whoever holds it."""
        gone: list[str] = []
        self._end(name, gone)
        return gone

    def expire(self, now_s: float) -> list[str]:
        gone: list[str] = []
        for name in [name for name, ref in self._refs.items() if ref.until_s <= now_s]:
            self._end(name, gone)
        return gone

    def check_invariants(self) -> None:
        for name, ref in self._refs.items():
            assert ref.holds or ref.carriers, f"nobody holds {name}"
            for link_id, count in ref.holds.items():
                assert count > 0 and name in self._of_link[link_id], f"{name}: {count} holds of {link_id}"
            for carrier in ref.carriers:
                assert name in self._of_carrier[carrier], f"{name} is not known to be carried by {carrier}"
        for names in (*self._of_link.values(), *self._of_carrier.values()):
            assert names and names <= self._refs.keys(), f"{names - self._refs.keys()} are held and do not live"

    def _end_if_free(self, name: str, gone: list[str]) -> None:
        ref = self._refs.get(name)
        if ref is not None and not ref.holds and not ref.carriers:
            self._end(name, gone)

    def _end(self, name: str, gone: list[str]) -> None:
        pending = [name]
        while pending:
            name = pending.pop()
            ref = self._refs.get(name)
            if ref is None:
                continue
            for link_id in list(ref.holds):
                self._unhold(name, ref, link_id)
            for carrier in ref.carriers:
                _discard(self._of_carrier, carrier, name)
            del self._refs[name]
            gone.append(name)
            for inner in self._of_carrier.pop(_inside(name), ()):
                inside = self._refs[inner]
                inside.carriers.discard(_inside(name))
                if not inside.holds and not inside.carriers:
                    pending.append(inner)

    def _unhold(self, name: str, ref: RefRecord, link_id: str) -> None:
        ref.holds.pop(link_id, None)
        _discard(self._of_link, link_id, name)


def _inside(name: str) -> str:
    """The carrier that a stored value is."""
    return f"ref {name}"


def _discard(names: dict[str, set[str]], key: str, name: str) -> None:
    found = names.get(key)
    if found is not None:
        found.discard(name)
        if not found:
            del names[key]
