"""Prewarm: how many started, unbound pods to keep (DeepServe 2.12, pre-warmed pods)."""

from __future__ import annotations

from collections.abc import Mapping

from deepserve_controller.core.views import PodsWanted, Prewarm


def fixed_pool(targets: Mapping[str, int]) -> Prewarm:
    """A constant number for each environment named in `targets`, none of the others (these start on demand)."""
    kept = dict(targets)

    def prewarm(environment: str) -> PodsWanted:
        pods = kept.get(environment, 0)
        return PodsWanted(pods, f"warm pool of {pods} for {environment}")

    return prewarm
