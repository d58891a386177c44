"""Retry: how long to wait before the user's code is tried again."""

from __future__ import annotations

from random import Random

from deepserve.protocol.specs import RetrySpec


def backoff_delay_s(spec: RetrySpec, retry: int, random: Random) -> float:
    """Seconds before retry number `retry` (1 is the first): exponential, bounded, with "equal jitter".

    With jitter the delay is uniform between half and all of the exponential value, so it never collapses to zero.
    """
    growth = spec.backoff_coefficient ** min(retry - 1, 64)  # no overflow, whatever the number of retries
    delay_s = min(spec.max_delay_s, spec.initial_delay_s * growth)
    return delay_s * random.uniform(0.5, 1.0) if spec.jitter else delay_s
