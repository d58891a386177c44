"""Startup time: how long a model would take to be ready in a place (ServerlessLLM's estimator, section 6.1 there)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import msgspec

WEIGHT = 0.3
"""Of the latest observation in a moving average."""
OUTLIER = 4.0
"""An observed bandwidth that is so many times another counts as that many times: a device was cleaned up, a file was
in the page cache."""
MIN_BYTES_PER_S = 1.0


class LinkLoad(msgspec.Struct):
    """One link that loads pass through one after the other: a network, a disk, a bus to a device."""

    bytes_per_s: float
    free_at_s: float = 0.0


class Booking(msgspec.Struct, frozen=True):
    """A load that was started. `waits_s`: for each link of `path` when it was booked."""

    model: str
    path: tuple[str, ...]
    size_bytes: int
    began_s: float
    waits_s: tuple[float, ...]


class StartupTimes:
    """T = max over the links of a path (q + n / b) + what the engine itself takes.

    q: until the link is free of loads that were booked before. n: bytes. b: its bandwidth, corrected by each load's
    observed time, as is the engine's time (process, device, warm-up), which often dominates and is kept by model.
    Chunks move on as soon as they are there, so links work at the same time, and the slowest says how long it takes;
    loads of two models overlap on different links. (ServerlessLLM has one queue for each server, no network, and no
    engine's time.)
    """

    def __init__(self, bytes_per_s: Mapping[str, float], engine_s: float = 1.0) -> None:
        """`bytes_per_s`: of each link by name, as measured with direct I/O. `engine_s`: before any was observed."""
        self.links = {name: LinkLoad(max(MIN_BYTES_PER_S, rate)) for name, rate in bytes_per_s.items()}
        self._first_engine_s = engine_s
        self._engine_s: dict[str, float] = {}
        self._bookings: dict[str, Booking] = {}

    def engine_s(self, model: str) -> float:
        return self._engine_s.get(model, self._first_engine_s)

    def estimate_s(self, model: str, path: Sequence[str], size_bytes: int, now_s: float) -> float:
        """Seconds until it is ready, were it started now. `path`: names of links; empty where the bytes are there."""
        return self._move_s(path, size_bytes, now_s) + self.engine_s(model)

    def book(self, load_id: str, model: str, path: Sequence[str], size_bytes: int, now_s: float) -> None:
        """It is started now: the links of its path are taken."""
        waits_s = tuple(max(0.0, self.links[name].free_at_s - now_s) for name in path)
        self._bookings[load_id] = Booking(model, tuple(path), size_bytes, now_s, waits_s)
        for name in path:
            link = self.links[name]
            link.free_at_s = max(link.free_at_s, now_s) + size_bytes / link.bytes_per_s

    def ended(self, load_id: str, now_s: float, moved_s: float | None = None) -> None:
        """It is ready, or given up (`moved_s` None): the links are as free as is known now.

        `moved_s`: what moving the bytes took, from its start; the rest was the engine's.
        """
        booking = self._bookings.pop(load_id)
        others = {name for each in self._bookings.values() for name in each.path}
        for name in booking.path:
            if name not in others:
                self.links[name].free_at_s = min(self.links[name].free_at_s, now_s)
        if moved_s is not None:
            self._learn(booking, moved_s, now_s - booking.began_s - moved_s)

    def _learn(self, booking: Booking, moved_s: float, engine_s: float) -> None:
        before_s = self.engine_s(booking.model)
        is_first = booking.model not in self._engine_s
        latest_s = max(0.0, engine_s)
        self._engine_s[booking.model] = latest_s if is_first else before_s + WEIGHT * (latest_s - before_s)
        if not booking.path or booking.size_bytes <= 0:
            return
        slowest = max(
            range(len(booking.path)),
            key=lambda i: booking.waits_s[i] + booking.size_bytes / self.links[booking.path[i]].bytes_per_s,
        )
        busy_s = moved_s - booking.waits_s[slowest]
        if busy_s > 0.0:  # else the queue was shorter than it was thought, which says nothing of the link
            link = self.links[booking.path[slowest]]
            observed = booking.size_bytes / busy_s
            within = min(max(observed, link.bytes_per_s / OUTLIER), link.bytes_per_s * OUTLIER)
            link.bytes_per_s += WEIGHT * (within - link.bytes_per_s)

    def _move_s(self, path: Sequence[str], size_bytes: int, now_s: float) -> float:
        return max(
            (max(0.0, self.links[name].free_at_s - now_s) + size_bytes / self.links[name].bytes_per_s for name in path),
            default=0.0,
        )

    def check_invariants(self) -> None:
        for name, link in self.links.items():
            assert link.bytes_per_s > 0.0, f"{name} moves nothing"
        for booking in self._bookings.values():
            assert set(booking.path) <= self.links.keys()
