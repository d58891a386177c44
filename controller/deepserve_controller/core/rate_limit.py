"""RateLimit: so much per minute, as a bucket that fills evenly (token bucket, RFC 2697's simplest case)."""

from __future__ import annotations

MINUTE_S = 60.0


class RateLimit:
    """per_minute: also what may be taken at once after a pause. Starts full."""

    def __init__(self, per_minute: int, now_s: float) -> None:
        self.per_minute = per_minute
        self._level = float(per_minute)
        self._at_s = now_s

    def remaining(self, now_s: float) -> int:
        return max(0, int(self._filled(now_s)))

    def wait_s(self, amount: int, now_s: float) -> float:
        """Seconds until `amount` may be taken, 0 where it may be now. What is more than the bucket holds may be taken
        when it is full."""
        missing = min(amount, self.per_minute) - self._filled(now_s)
        return max(0.0, missing) * MINUTE_S / self.per_minute

    def take(self, amount: int, now_s: float) -> None:
        """Also more than there is, or less than nothing where too much was taken before: then the wait is longer."""
        self._level = min(float(self.per_minute), self._filled(now_s) - amount)
        self._at_s = now_s

    def _filled(self, now_s: float) -> float:
        gained = (now_s - self._at_s) * self.per_minute / MINUTE_S
        return min(float(self.per_minute), self._level + max(0.0, gained))
