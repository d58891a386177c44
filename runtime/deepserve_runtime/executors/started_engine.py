"""StartedEngine: an engine that may take requests, where its weights came from, and why from there."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

import msgspec

from deepserve.protocol.messages import Weights
from deepserve.protocol.scaling_steps import POST_LOAD
from deepserve.protocol.specs import FunctionSpec
from deepserve_runtime.executors.flowserve_parts import take_first_step
from deepserve_runtime.executors.loaded_engine import LoadedEngine, loading
from deepserve_runtime.step_clock import StepClock

if TYPE_CHECKING:
    from deepserve_runtime.executors.flowserve_parts import Engine

HELD, MAPPED = "its template holds the weights", "its template has the weights mapped, not in memory"
LATER = "later layers are read while it serves"


class StartedEngine:
    """Falls back from a fork to what the loading finds: host memory, the file, a conversion.

    is_template_stale: the pod's template holds a checkpoint that was changed since; the pod has loaded the new one.
    """

    engine: Engine
    folder: Path
    defaults: dict[str, Any]

    def __init__(self, spec: FunctionSpec, loaded: LoadedEngine | None, steps: StepClock, kv_bytes: int = 0) -> None:
        """`loaded`: in the template that the pod was forked from. kv_bytes: see BindExecutor. Raises ModelLoadError."""
        assert spec.model is not None
        self._kv_bytes = kv_bytes
        changed = "" if loaded is None else loaded.template.changed()
        self.is_template_stale = bool(changed)
        if loaded is None or changed:
            loaded = LoadedEngine(spec, steps)
            self.source, self.source_reason = loaded.source, loaded.source_reason
            loaded_ms = loaded.weights.read_ms
            if changed:
                self._note(f"not forked: {changed}", spec)
            self._start(spec, loaded)
            if self.engine.is_arriving:
                self.source_reason += f"; {LATER}"
        else:
            self.source, self.source_reason = "fork", HELD
            self._start(spec, loaded)
            loaded_ms = 0.0
            if self.engine.is_arriving:
                self.source_reason = f"{MAPPED}; {LATER}"
            if gone := loaded.template.gone():
                self._note(gone, spec)
        self.weights = Weights(loaded.weights.size_bytes, loaded_ms, self.engine.is_arriving)
        self.memory = msgspec.structs.replace(loaded.memory, kv_bytes=self.engine.setup.kv_bytes)
        steps.mark(POST_LOAD)

    def _start(self, spec: FunctionSpec, loaded: LoadedEngine) -> None:
        """With a first step, so that no request pays for what that does. Where one waits already, it would pay for that
        step and its own; and while weights still come, to be ready must not wait for what first layers need not."""
        assert spec.model is not None
        self.folder, self.defaults = loaded.folder, loaded.defaults
        with loading(spec.model):
            self.engine = loaded.template.engine(self._kv_bytes)
            if not self.engine.is_arriving and not loaded.is_awaited:
                take_first_step(self.engine)

    def _note(self, text: str, spec: FunctionSpec) -> None:
        """For `deepserve model info` and the log: it is not what was to be expected."""
        self.source_reason += f"; {text}"
        print(f"{spec.label}: weights from {self.source}: {self.source_reason}", file=sys.stderr, flush=True)
