"""Pods and functions as `status` shows them."""

from __future__ import annotations

import msgspec

from deepserve_controller.core.device import Allotment


class PodView(msgspec.Struct, frozen=True):
    pod_id: str
    state: str
    environment: str
    function_id: str
    label: str
    pid: int
    slots: int
    is_busy: bool
    started_s: float
    since_s: float
    """Since when it is in this state."""
    reason: str
    """Of the last decision about it."""
    is_asleep: bool = False
    """It has given back memory until its next task."""
    devices: Allotment = Allotment()
    memory_mib: int = 0
    """Its claim on the host's memory, and what of that is for a model's KV; 0 while it is nobody's."""
    kv_mib: int = 0


class FunctionView(msgspec.Struct, frozen=True):
    function_id: str
    label: str
    pods: int
    pods_wanted: int
    queued: int
    reason: str
    running: int = 0
    ready: int = 0
    starting: int = 0
    draining: int = 0
    min_pods: int = 0
    max_pods: int = 0
    buffer_pods: int = 0
    scaledown_window_s: float = 0.0
    pod_source: str = ""
    """Where its pods come from, and why."""
    broken_because: str = ""
    """Why its code could last not be loaded; empty since it could."""
    decided_s: float = 0.0
    """When its reason was last looked at."""
