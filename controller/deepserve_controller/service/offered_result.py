"""OfferedResult: the segment of the result that the cores are told of now, while no action has taken it up."""

from __future__ import annotations

from deepserve.protocol.messages import Value
from deepserve_controller.service.segments import Segments


class OfferedResult:
    def __init__(self, segments: Segments) -> None:
        self._segments = segments
        self._name = ""

    def offer(self, pod_id: str, value: Value, is_current: bool) -> None:
        """A pod told of a result that it wrote; nobody wants that of a task which is no longer its own."""
        if is_current:
            self._segments.announced(pod_id, value)
            self._name = value.segment
        else:
            self._segments.remove(value.segment)

    def drop_unclaimed(self, value: Value) -> None:
        """After the event that told the cores of a result in a segment: what no action took up goes.

        Its request was cancelled, or its input given up, while the result was on its way.
        """
        if value.segment == self._name:
            self._segments.remove(value.segment)
        self._name = ""

    def claim(self, value: Value) -> None:
        """An action takes it up, if it is the one."""
        if value.segment == self._name:
            self._name = ""
