"""Autoscaler: how many pods a deployed function has, changed while it runs."""

from __future__ import annotations

from deepserve._client import current_client
from deepserve._options import UNSET, merge_scaling
from deepserve.protocol.specs import Scaling


class Autoscaler:
    """Bounds of one function's pool of pods."""

    def __init__(self, function_id: str, scaling: Scaling) -> None:
        self._function_id = function_id
        self._scaling = scaling

    def update(self, *, min_pods: int = UNSET, max_pods: int | None = UNSET) -> None:
        """Change the bounds until the next deploy; one that is not given is as deployed. Raises InvalidOption."""
        given = {"min_pods": min_pods, "max_pods": max_pods}
        scaling = merge_scaling(self._scaling, "autoscaler.update", given)
        bounds = {"min_pods": scaling.min_pods, "max_pods": scaling.max_pods}
        current_client().query("scale", {"function_id": self._function_id, **bounds})
