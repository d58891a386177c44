"""ScalingHistory: the last decisions about a function's pods, for people who ask why."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator

from deepserve_controller.core.scaling_views import ScalingDecision

NUM_DECISIONS = 50
MERGE_S = 1.0
"""Decisions in the same direction that follow each other this closely are shown as one."""


class ScalingHistory:
    def __init__(self) -> None:
        self._decisions: deque[ScalingDecision] = deque(maxlen=NUM_DECISIONS)

    def __iter__(self) -> Iterator[ScalingDecision]:
        return iter(self._decisions)

    def add(self, decision: ScalingDecision) -> None:
        last = self._decisions[-1] if self._decisions else None
        if last is not None and decision.at_s - last.at_s < MERGE_S and _continues(last, decision):
            self._decisions[-1] = decision._replace(from_pods=last.from_pods, at_s=last.at_s)
        else:
            self._decisions.append(decision)


def _continues(last: ScalingDecision, decision: ScalingDecision) -> bool:
    """Up after up, down after down, or the same refusal once more."""
    before, after = last.to_pods - last.from_pods, decision.to_pods - decision.from_pods
    return last.to_pods == decision.from_pods and (before > 0) == (after > 0) and (before < 0) == (after < 0)
