"""PodEntry: one pod as the service knows it. (What the cluster manager knows of it is `core.pod_record`.)"""

from __future__ import annotations

import time

import msgspec

from deepserve.protocol.framing import Buffer
from deepserve.protocol.messages import Message
from deepserve_controller.service.links import Link
from deepserve_controller.service.reactor import Timer
from deepserve_controller.service.scaling_steps import ScalingSteps

MAX_DETAIL_CHARS = 4000
"""Of what a pod or a template says about an outcome or an end; the exception itself is in the payload."""


class PodEntry(msgspec.Struct):
    pod_id: str
    environment: str
    token: str
    """Empty once used."""
    log_keys: dict[str, str]
    """Stream to key, until used."""
    started_at: float
    state: str = "starting"
    """starting, warm, binding, bound, stopping, ending"""
    pid: int = 0
    link: Link | None = None
    function_id: str = ""
    label: str = ""
    reason: str = ""
    exit_code: int | None = None
    is_exit_known: bool = False
    is_killed: bool = False
    timers: list[Timer] = []
    steps_ms: dict[str, float] = {}
    scaling: ScalingSteps = msgspec.field(default_factory=lambda: ScalingSteps(time.monotonic()))
    last_root_links: tuple[str, ...] = ()
    pinned_blocks: int = 0
    """Of an engine's KV cache: what contexts keep on its device."""

    def send(self, message: Message, data: Buffer = b"") -> None:
        """To a pod whose link is there."""
        assert self.link is not None
        self.link.send(message, data)
