"""KeyLimits: how many requests and tokens per minute the keys have left."""

from __future__ import annotations

import math
from typing import NamedTuple

from deepserve_controller.core.rate_limit import RateLimit
from deepserve_controller.service.openai.fault import Fault
from deepserve_controller.service.store import ApiKey

RATE_HEADERS = tuple(
    f"x-ratelimit-{what}-{of}" for what in ("limit", "remaining", "reset") for of in ("requests", "tokens")
)


class _Limits(NamedTuple):
    requests: RateLimit | None
    tokens: RateLimit | None


class KeyLimits:
    """A request is charged with an estimate of its tokens when it comes, and with what it took when it is over."""

    def __init__(self) -> None:
        self._limits: dict[str, _Limits] = {}

    def charge(self, key: ApiKey, num_tokens: int, now_s: float) -> dict[str, str]:
        """The headers that tell what is left. Raises Fault 429 with the seconds to wait; then nothing is charged."""
        limits = self._of(key, now_s)
        for limit, amount, what in ((limits.requests, 1, "requests"), (limits.tokens, num_tokens, "tokens")):
            if limit is not None and (wait_s := limit.wait_s(amount, now_s)) > 0:
                text = f"the key may use {limit.per_minute} {what} per minute; try again in {wait_s:.1f} s"
                headers = {"retry-after": str(math.ceil(wait_s)), **_headers(limits, now_s)}
                raise Fault(429, text, code="rate_limit_exceeded", headers=headers)
        if limits.requests is not None:
            limits.requests.take(1, now_s)
        if limits.tokens is not None:
            limits.tokens.take(num_tokens, now_s)
        return _headers(limits, now_s)

    def settle(self, key: ApiKey, estimated: int, actual: int, now_s: float) -> None:
        found = self._limits.get(key.key_id)  # none of a key that was revoked meanwhile
        if found is not None and found.tokens is not None:
            found.tokens.take(actual - estimated, now_s)

    def forget(self, key_id: str) -> None:
        self._limits.pop(key_id, None)

    def _of(self, key: ApiKey, now_s: float) -> _Limits:
        found = self._limits.get(key.key_id)
        if found is None:
            given = (key.requests_per_minute, key.tokens_per_minute)
            found = _Limits(*(RateLimit(most, now_s) if most else None for most in given))
            if any(given):
                self._limits[key.key_id] = found
        return found


def _headers(limits: _Limits, now_s: float) -> dict[str, str]:
    """As OpenAI names them; `reset`: when all of it may be used again."""
    headers = {}
    for what, limit in limits._asdict().items():
        if limit is not None:
            headers[f"x-ratelimit-limit-{what}"] = str(limit.per_minute)
            headers[f"x-ratelimit-remaining-{what}"] = str(limit.remaining(now_s))
            headers[f"x-ratelimit-reset-{what}"] = f"{limit.wait_s(limit.per_minute, now_s):.3f}s"
    return headers
