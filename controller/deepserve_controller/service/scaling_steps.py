"""ScalingSteps: what the start of one pod took, from the order until routing knows of it."""

from __future__ import annotations

from collections.abc import Mapping

from deepserve.protocol.scaling_steps import LOAD, POST_LOAD, PRE_LOAD, SCALER_POST, SCALER_PRE


class ScalingSteps:
    """Seconds of a monotonic clock in, milliseconds by step out.

    Of a warm pod that is taken the first step takes no time: nobody waited for it.
    """

    def __init__(self, ordered_s: float) -> None:
        self.steps_ms: dict[str, float] = {}
        self.source = ""
        """What the pod says of where its weights or code came from."""
        self.source_reason = ""
        self._since_s = ordered_s
        self._ready_s = 0.0

    def note_joined(self, now_s: float) -> None:
        """Its process has dialled in."""
        self.steps_ms = {SCALER_PRE: (now_s - self._since_s) * 1e3}
        self._since_s = now_s

    def note_taken(self, now_s: float) -> None:
        """It was warm, and is bound."""
        self.steps_ms = {SCALER_PRE: 0.0}
        self._since_s = now_s

    def note_ready(self, now_s: float, own_ms: Mapping[str, float], source: str, reason: str = "") -> None:
        """own_ms: what the pod measured, by steps of its own; what they leave of the time went before them."""
        post_ms = own_ms.get(POST_LOAD, 0.0)
        load_ms = sum(own_ms.values()) - post_ms
        before_ms = max(0.0, (now_s - self._since_s) * 1e3 - load_ms - post_ms)
        self.steps_ms |= {PRE_LOAD: before_ms, LOAD: load_ms, POST_LOAD: post_ms}
        self.source, self.source_reason = source, reason
        self._ready_s = now_s

    def note_routable(self, now_s: float) -> None:
        """Routing knows of it, and who waited was sent there. When a later task comes says nothing of its start."""
        self.steps_ms[SCALER_POST] = (now_s - self._ready_s) * 1e3
