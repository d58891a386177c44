"""What the kill loop's load writes down of each call, and what may be written there."""

from __future__ import annotations

import threading
import time
from collections import Counter, defaultdict
from dataclasses import dataclass, field
from typing import Any

import deepserve

POD = (
    deepserve.PodLost,
    deepserve.StartupFailed,
    deepserve.FunctionTimeout,
    deepserve.StreamInterrupted,
    deepserve.ControllerLost,
)
CAUSES = {
    deepserve.PodLost: ("was lost: ", "was killed: "),
    deepserve.FunctionTimeout: ("time limit of", "the time left to its caller"),
    deepserve.StartupFailed: ("ended while", "could not start", "template", "was still"),
    deepserve.CallCancelled: ("cancelled by the caller", "because its caller ended", "because its client left"),
    deepserve.StreamInterrupted: ("was lost: ", "was killed: "),
    deepserve.ControllerLost: ("controller", "link"),
}
NOT_BEGUN = (deepserve.ControllerUnreachable,)


@dataclass
class Ledger:
    """`begun` and `ended` by kind of call, `outcomes` by kind and what came out. Thread-safe by its lock."""

    begun: Counter[str] = field(default_factory=Counter)
    outcomes: dict[str, Counter[str]] = field(default_factory=lambda: defaultdict(Counter))
    stopped: Counter[str] = field(default_factory=Counter)
    violations: list[str] = field(default_factory=list)
    attempts: dict[str, tuple[str, int]] = field(default_factory=dict)
    """Of spawned calls whose timings are known: what became of them, and how many attempts were counted."""
    num_not_begun: int = 0
    slowest_s: float = 0.0
    lock: threading.Lock = field(default_factory=threading.Lock)

    def violate(self, kind: str, text: str) -> None:
        with self.lock:
            self.violations.append(f"{kind}: {text}")

    def end(self, kind: str, outcome: str, began_s: float) -> None:
        with self.lock:
            self.outcomes[kind][outcome] += 1
            self.slowest_s = max(self.slowest_s, time.monotonic() - began_s)

    def account(self, kind: str, call: deepserve.Call[Any], outcome: str) -> None:
        """Attempts are those that the user's retries and lost pods paid for, and no others."""
        timings = call.timings
        if timings is None:
            return
        if timings.attempts > 1 + timings.user_retries + timings.pod_losses:
            self.violate(kind, f"{call.id} has uncounted attempts: {timings}")
        with self.lock:
            self.attempts[call.id] = (outcome, timings.attempts)


def judge(error: BaseException, is_cancelled: bool) -> str:
    """'' for an error that may come and names its cause, else what is wrong with it."""
    allowed = (*POD, deepserve.CallCancelled) if is_cancelled else POD
    if not isinstance(error, allowed):
        return f"unexpected {type(error).__name__}: {error}"
    causes = next(causes for kind, causes in CAUSES.items() if isinstance(error, kind))
    if not any(cause in str(error) for cause in causes):
        return f"{type(error).__name__} names no cause: {error}"
    if isinstance(error, deepserve.CallCancelled) and not error.stopped:
        return f"CallCancelled does not say how: {error}"
    if isinstance(error, deepserve.FunctionTimeout) and not (error.clock and error.stopped):
        return f"FunctionTimeout does not say whose clock or how: {error}"
    return ""
