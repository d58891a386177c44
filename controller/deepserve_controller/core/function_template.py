"""FunctionTemplate: a process that has loaded a function, or a model's weights for pods that load for themselves."""

from __future__ import annotations

from typing import Literal

import msgspec

from deepserve.protocol.specs import FunctionSpec
from deepserve_controller.core.function_pool import FunctionPool


class FunctionTemplate(msgspec.Struct, eq=False):
    """`pool` is the function's; `pods` are those forked from it that are not gone. is_host_copy: of a model whose pods
    have devices of their own: it has the weights in the host's memory, from where these load, and forks none."""

    template_id: str
    pool: FunctionPool
    spec: FunctionSpec
    is_host_copy: bool
    began_s: float
    ready_by_s: float
    state: Literal["loading", "ready", "ending"] = "loading"
    pid: int = 0
    pods: set[str] = set()
    used_s: float = 0.0
    """When a pod of the function was last seen to end."""
    has_idle_alarm: bool = False
    held_mib: int = 0

    @property
    def is_needed(self) -> bool:
        """Whether its function has no pod without it."""
        return self.spec.is_shared and not self.is_host_copy
