"""StartupTimes: how long a model would take to be ready in a place (ServerlessLLM's estimator, section 6.1 there)."""

from __future__ import annotations

from collections.abc import Mapping, Set

import msgspec

from deepserve_controller.core.startup_views import MAX_ENGINE_S

WEIGHT = 0.3
"""Of the latest observation in a moving average."""
OUTLIER = 4.0
"""An observed bandwidth that is so many times another counts as that many times: a device was cleaned up, a file was
in the page cache."""
MIN_BYTES_PER_S = 1.0

Path = Mapping[str, int]
"""Bytes by the name of the link that they pass through; empty where they are there."""


class LinkLoad(msgspec.Struct):
    """One link that loads pass through one after the other: a network, a disk, a bus to a device. is_learned: from
    loads, not what it began with."""

    bytes_per_s: float
    free_at_s: float = 0.0
    is_learned: bool = False


class Booking(msgspec.Struct):
    """A load that was started. starts_s, ends_s: by link of its path, as estimated. has_company: links on which another
    load was started before it was over."""

    path: Path
    began_s: float
    starts_s: dict[str, float]
    ends_s: dict[str, float]
    has_company: set[str] = set()

    @property
    def end_s(self) -> float:
        return max(self.ends_s.values(), default=self.began_s)


class StartupTimes:
    """T = max over the links of a path (q + n / b) + what the engine itself takes.

    q: until the link is free of loads that were booked before. n: bytes. b: its bandwidth, corrected by each load's
    observed time, as is the engine's time (process, device, warm-up), which often dominates and is kept by model.
    Chunks move on as soon as they are there, so links work at the same time, and the slowest says how long it takes;
    loads of two models overlap on different links. (ServerlessLLM has one queue for each server, no network, and no
    engine's time.)
    """

    def __init__(self, bytes_per_s: Mapping[str, float], engine_s: float = 1.0) -> None:
        """`bytes_per_s`: of each link by name, to begin with. `engine_s`: before any was observed."""
        self.links = {name: LinkLoad(max(MIN_BYTES_PER_S, rate)) for name, rate in bytes_per_s.items()}
        self._first_engine_s = engine_s
        self._engine_s: dict[str, float] = {}
        """The longest ago observed first."""
        self._bookings: dict[str, Booking] = {}
        """In the order in which they were made."""

    @property
    def load_ids(self) -> Set[str]:
        """Of the loads that are booked."""
        return self._bookings.keys()

    def engine_s(self, model: str) -> float:
        return self._engine_s.get(model, self._first_engine_s)

    def knows(self, model: str) -> bool:
        """Whether its engine's time was observed."""
        return model in self._engine_s

    def estimate_s(self, model: str, path: Path, now_s: float) -> float:
        """Seconds until it is ready, were it started now."""
        return self.move_s(path, now_s) + self.engine_s(model)

    def move_s(self, path: Path, now_s: float) -> float:
        """Seconds until bytes are there that set out now, behind those that are on their way."""
        ends_s = (self._start_s(name, now_s) + size / self.links[name].bytes_per_s for name, size in path.items())
        return max(ends_s, default=now_s) - now_s

    def left_s(self, load_id: str, now_s: float) -> float:
        """Until that load is likely to be over."""
        booking = self._bookings.get(load_id)
        return max(0.0, booking.end_s - now_s) if booking is not None else 0.0

    def book(self, load_id: str, path: Path, now_s: float) -> None:
        """It is started now: the links of its path are taken."""
        starts_s = {name: self._start_s(name, now_s) for name in path}
        ends_s = {name: starts_s[name] + size / self.links[name].bytes_per_s for name, size in path.items()}
        for other in self._bookings.values():
            other.has_company |= path.keys() & other.path.keys()
        self._bookings[load_id] = Booking(path, now_s, starts_s, ends_s)
        for name, end_s in ends_s.items():
            self.links[name].free_at_s = end_s

    def ended(self, load_id: str, now_s: float, moved_s: float | None = None) -> None:
        """All is there, or it is given up: what it had left of its links is free for those behind it.

        `moved_s`: what moving the bytes took, up to now; None where nothing is to be learned of it.
        """
        after = list(self._bookings).index(load_id) + 1
        behind = list(self._bookings.values())[after:]
        booking = self._bookings.pop(load_id)
        for name, end_s in booking.ends_s.items():
            free_at_s = min(end_s, max(now_s, booking.starts_s[name]))
            for other in behind:
                if name in other.path:
                    took_s = other.ends_s[name] - other.starts_s[name]
                    other.starts_s[name] = max(free_at_s, other.began_s)  # perhaps before this end was told
                    free_at_s = other.ends_s[name] = other.starts_s[name] + took_s
            self.links[name].free_at_s = free_at_s
        if moved_s is not None and booking.path:
            self._learn(booking, now_s - moved_s, now_s)

    def note_engine(self, model: str, seconds: float) -> None:
        """What it took beside the moving of bytes."""
        latest_s, before_s = min(max(0.0, seconds), MAX_ENGINE_S), self._engine_s.pop(model, None)
        self._engine_s[model] = latest_s if before_s is None else before_s + WEIGHT * (latest_s - before_s)

    def forget(self, model: str) -> None:
        self._engine_s.pop(model, None)

    @property
    def engines_s(self) -> Mapping[str, float]:
        """All that were observed, the longest ago first."""
        return self._engine_s

    def learn(self, bytes_per_s: Mapping[str, float], engines_s: Mapping[str, float]) -> None:
        """What was learned before this began; links that are not there are left aside."""
        for name, rate in bytes_per_s.items():
            if name in self.links:
                self.links[name].bytes_per_s, self.links[name].is_learned = max(MIN_BYTES_PER_S, rate), True
        self._engine_s = {**engines_s, **self._engine_s}

    # --- inside ---------------------------------------------------------------------------------------

    def _start_s(self, name: str, now_s: float) -> float:
        return max(self.links[name].free_at_s, now_s)

    def _learn(self, booking: Booking, since_s: float, now_s: float) -> None:
        """The slowest link is judged, unless it had others' loads to move, too: how they shared it is not known."""
        slowest = max(booking.path, key=lambda name: booking.ends_s[name])
        if slowest in booking.has_company or any(slowest in other.path for other in self._bookings.values()):
            return
        busy_s = now_s - max(since_s, booking.starts_s[slowest])
        if busy_s > 0.0 and booking.path[slowest] > 0:  # else the queue was shorter than it was thought
            link = self.links[slowest]
            observed = booking.path[slowest] / busy_s
            within = min(max(observed, link.bytes_per_s / OUTLIER), link.bytes_per_s * OUTLIER)
            link.bytes_per_s += WEIGHT * (within - link.bytes_per_s)
            link.is_learned = True

    def check_invariants(self) -> None:
        for name, link in self.links.items():
            assert link.bytes_per_s > 0.0, f"{name} moves nothing"
        for load_id, booking in self._bookings.items():
            assert booking.path.keys() <= self.links.keys(), f"{load_id} takes links that are not there"
            for name, end_s in booking.ends_s.items():
                assert booking.starts_s[name] <= end_s, f"{load_id} ends on {name} before it starts"
                assert end_s <= self.links[name].free_at_s + 1e-6, f"{name} is free before {load_id} is over"
