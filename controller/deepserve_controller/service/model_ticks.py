"""ModelTicks: has models scaled every so often, for policies that do not go by news alone."""

from __future__ import annotations

from deepserve_controller.core.events import ScalingChanged
from deepserve_controller.service.functions import Functions
from deepserve_controller.service.loop import CoreLoop
from deepserve_controller.service.reactor import running_reactor


class ModelTicks:
    """`tick_s` 0: never, which is what DeepServe's own policies need."""

    def __init__(self, cores: CoreLoop, functions: Functions, tick_s: float) -> None:
        self._cores = cores
        self._functions = functions
        self._tick_s = tick_s

    def start(self) -> None:
        if self._tick_s:
            running_reactor().call_later(self._tick_s, self._tick)

    def _tick(self) -> None:
        for function_id, spec in list(self._functions.specs.items()):
            view = self._cores.cores.cluster_manager.function_view(function_id)
            if spec.kind == "model" and view is not None:
                self._cores.give(ScalingChanged(function_id, view.min_pods, view.max_pods))
        self.start()
