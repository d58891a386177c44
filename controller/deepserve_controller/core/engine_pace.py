"""EnginePace: how fast a model's engines are and how much is asked of them, as they report it."""

from __future__ import annotations

from collections import deque

from deepserve.protocol.messages import EngineReport
from deepserve_controller.core.scaling_views import TokenLoad

WEIGHT = 0.2
"""Of the latest report, in an exponentially weighted mean."""
RECENT_S = 30.0
"""How far back first tokens count for the percentile."""
MAX_FIRST_TOKENS = 256
WINDOW_S = 10.0
"""Arrivals are counted by windows of this length."""
NUM_WINDOWS = 30


class EnginePace:
    """Seconds and tokens; 0 where nothing is known yet."""

    def __init__(self) -> None:
        self.prompt_tokens_per_s = 0.0
        """Of one engine, in steps that compute prompts."""
        self.step_s = 0.0
        """Between two tokens of a sequence."""
        self._step_at_s = 0.0
        self._first_tokens: deque[tuple[float, float]] = deque(maxlen=MAX_FIRST_TOKENS)
        """(when, seconds beyond what the prompt itself takes)."""
        self._arrivals: deque[tuple[int, int]] = deque(maxlen=NUM_WINDOWS)
        """(number of the window, tokens of prompts that arrived in it), the latest last."""

    def arrived(self, num_tokens: int, now_s: float) -> None:
        window = int(now_s // WINDOW_S)
        if self._arrivals and self._arrivals[-1][0] == window:
            self._arrivals[-1] = (window, self._arrivals[-1][1] + num_tokens)
        else:
            self._arrivals.append((window, num_tokens))

    def first_token(self, seconds: float, own_tokens: int, now_s: float) -> None:
        """It came `seconds` after its assignment; `own_tokens` had to be computed for it."""
        if self.prompt_tokens_per_s > 0.0:
            self._first_tokens.append((now_s, max(0.0, seconds - own_tokens / self.prompt_tokens_per_s)))

    def steps(self, report: EngineReport, now_s: float) -> None:
        if report.steps > 0:
            self.step_s = _mixed(self.step_s, report.step_ms / 1e3 / report.steps)
            self._step_at_s = now_s
        if report.prompt_tokens > 0 and report.prompt_ms > 0.0:
            self.prompt_tokens_per_s = _mixed(self.prompt_tokens_per_s, report.prompt_tokens / report.prompt_ms * 1e3)

    def late_p95_s(self, now_s: float) -> float:
        """Of the last RECENT_S."""
        recent = sorted(seconds for at_s, seconds in self._first_tokens if at_s > now_s - RECENT_S)
        return recent[min(len(recent) - 1, int(0.95 * len(recent)))] if recent else 0.0

    def arrival_rates(self, now_s: float) -> tuple[float, ...]:
        """Tokens of prompts a second, by window since the first that is remembered; the one that runs is left out."""
        if not self._arrivals:
            return ()
        last = int(now_s // WINDOW_S) - 1
        counts = dict(self._arrivals)
        first = max(self._arrivals[0][0], last - NUM_WINDOWS + 1)
        return tuple(counts.get(window, 0) / WINDOW_S for window in range(first, last + 1))

    def token_load(self, queued: int, prefill: int, decode_blocks: int, now_s: float) -> TokenLoad:
        step_s = self.step_s if now_s - self._step_at_s <= RECENT_S else 0.0
        return TokenLoad(
            queued, prefill, decode_blocks, self.prompt_tokens_per_s,
            self.late_p95_s(now_s), step_s, self.arrival_rates(now_s),
        )  # fmt: skip


def _mixed(mean: float, latest: float) -> float:
    return latest if mean == 0.0 else mean + WEIGHT * (latest - mean)
