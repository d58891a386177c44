"""StartFailures: what became of a function's starts that failed, and whether to try again."""

from __future__ import annotations

from typing import Literal, NamedTuple

import msgspec

MAX_START_FAILURES = 3
START_BACKOFF_S = 0.1
"""Before the second try; doubled for the third."""

FailureKind = Literal["ended", "starts slowly", "loads slowly"]


class Failure(NamedTuple):
    """Of a pod that did not get ready. `loads slowly`: the code's own doing, which is not tried again."""

    kind: FailureKind
    text: str


class StartFailures(msgspec.Struct, eq=False):
    """count: since a pod was ready, or the function was given up."""

    count: int = 0
    last_s: float = -1.0
    """When the last was, ever; negative where none was."""
    retry_s: float = 0.0
    """No start before."""

    def clear(self) -> None:
        self.count, self.retry_s = 0, 0.0

    def note(self, now_s: float, failure: Failure) -> bool:
        """Whether to try again, at `retry_s`; else it is given up."""
        self.last_s = now_s
        self.count += 1
        if failure.kind == "loads slowly" or self.count >= MAX_START_FAILURES:
            return False
        self.retry_s = now_s + START_BACKOFF_S * 2 ** (self.count - 1)
        return True

    def epitaph(self, failure: Failure, startup_timeout_s: float) -> str:
        """What to tell who waits, once it is given up; the count begins anew."""
        text = failure.text
        if failure.kind != "ended":
            text = f"not ready within its startup_timeout of {startup_timeout_s:g} s: {text}"
        if self.count > 1:
            text = f"{text} ({self.count} tries)"
        self.clear()
        return text
