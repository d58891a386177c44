"""Prewarm: how many started, unbound pods to keep (DeepServe 2.12, pre-warmed pods)."""

from __future__ import annotations

from collections.abc import Mapping

import msgspec

from deepserve_controller.core.scaling_views import PodsWanted, PoolUse


class ReactivePool(msgspec.Struct, frozen=True):
    """More warm pods after cold starts and while bursts take them, fewer when neither happened for `memory_s`.

    clamp(least, most, taken by one burst + ceil(cold starts / threshold) * increment), over the last `memory_s`.
    `least` names the environments that are kept warm at all; the others start on demand. (OpenWhisk: the reactive
    stem cells of its container pool.)
    """

    least: Mapping[str, int]
    most: int = 4
    threshold: int = 4
    increment: int = 1
    memory_s: float = 60.0

    def decide(self, use: PoolUse) -> PodsWanted:
        least = self.least.get(use.environment, 0)
        if not least:
            return PodsWanted(0, f"no warm pool for {use.environment}")
        grown = use.taken + -(-use.cold_starts // self.threshold) * self.increment
        pods = max(least, min(self.most, grown))
        reason = f"warm pool of {pods} for {use.environment}"
        if pods > least:
            reason += f": {use.cold_starts} cold starts, {use.taken} taken at once within {self.memory_s:g} s"
        return PodsWanted(pods, reason)
