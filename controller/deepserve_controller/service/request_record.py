"""RequestRecord: what the service knows of one running request."""

from __future__ import annotations

from collections import deque

import msgspec

from deepserve_controller.service.results import Delivery


class RequestRecord(msgspec.Struct):
    request_id: str
    link_id: str
    root_link_id: str
    """The client whose call this is, or whose call's child it is: its terminal shows the output."""
    function_id: str
    label: str
    kind: str
    parent_task_id: str
    keep: bool
    arrived_at: float
    segments: dict[int, str] = {}
    """Of the arguments (-1) and of map inputs, by index."""
    listeners: list[str] = []
    held: deque[Delivery] = msgspec.field(default_factory=deque)
    """Finished inputs of a kept map."""
    pod_id: str = ""
    num_inputs: int | None = None
    """Of a map, once its inputs have ended."""
    journals: dict[str, bytearray] = {}
    """By task id: what its attempts have said; a later one goes on from there."""
