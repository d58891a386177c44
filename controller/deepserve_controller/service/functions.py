"""Functions that somebody defined: by which link, and which apps they are deployed in."""

from __future__ import annotations

from deepserve.protocol.specs import FunctionSpec
from deepserve_controller.core import events
from deepserve_controller.service.loop import CoreLoop


class Functions:
    """Tells the cores about a function once, however often it is defined.

    A function that nobody holds any more (every link that defined it is closed, and no app names it) keeps its
    warm pods for their idle time, but no pod is held up for it.
    """

    def __init__(self, cores: CoreLoop) -> None:
        self._cores = cores
        self.specs: dict[str, FunctionSpec] = {}
        self._holders: dict[str, set[str]] = {}

    def label(self, function_id: str) -> str:
        spec = self.specs.get(function_id)
        return spec.label if spec else function_id

    def define(self, holder: str, function_id: str, spec: FunctionSpec) -> None:
        """`holder`: a link id, or `app:<name>`."""
        holders = self._holders.setdefault(function_id, set())
        was_released = not holders
        holders.add(holder)
        if function_id not in self.specs:
            self.specs[function_id] = spec
            self._cores.give(events.FunctionDefined(function_id, spec))
        elif was_released and spec.scaling.min_pods:
            self._cores.give(events.ScalingChanged(function_id, spec.scaling.min_pods, spec.scaling.max_pods))

    def release(self, holder: str, function_id: str) -> None:
        holders = self._holders.get(function_id, set())
        if holder not in holders:
            return
        holders.discard(holder)
        spec = self.specs[function_id]
        if not holders and spec.scaling.min_pods:
            self._cores.give(events.ScalingChanged(function_id, 0, spec.scaling.max_pods))

    def release_all(self, holder: str) -> None:
        for function_id in [name for name, holders in self._holders.items() if holder in holders]:
            self.release(holder, function_id)

    def remove(self, function_id: str) -> None:
        """No new requests; its pods drain. Nothing happens while a link or an app still holds it."""
        if function_id in self.specs and not self._holders.get(function_id):
            del self.specs[function_id]
            self._holders.pop(function_id, None)
            self._cores.give(events.FunctionRemoved(function_id))
