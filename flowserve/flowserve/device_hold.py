"""DeviceHold: what an engine has of its device, and how it lets go of that and takes it again (sleep and wake)."""

from __future__ import annotations

from .config import EngineConfig
from .device.base import Runner
from .errors import CheckpointError, InvalidRequestError
from .kv_memory import plan_kv_memory
from .models.loader import LoadedModel, load_model

AWAKE, PARKED, DROPPED = 0, 1, 2
"""Levels of sleep. PARKED: weights are where they can be had again fast, DROPPED: nothing of them is kept."""


class DeviceHold:
    """Weights, and while awake a runner with its KV storage, working memory and threads.

    Weights that somebody else in the process holds too (the `LoadedModel` of a template) stay where they are.
    """

    def __init__(self, loaded: LoadedModel, config: EngineConfig) -> None:
        loaded.device.start(loaded, config)
        self.layout, self.max_model_len = plan_kv_memory(loaded, config)
        self.level = AWAKE
        self._config = config
        self._folder = loaded.folder
        self._model_config = loaded.config
        self._device = loaded.device
        self._loaded: LoadedModel | None = loaded
        self._runner: Runner | None = self._make_runner(loaded)

    @property
    def runner(self) -> Runner:
        assert self._runner is not None, "the engine sleeps"
        return self._runner

    def release(self, level: int) -> None:
        """Give back the memory and the threads. From a deeper sleep nothing changes."""
        if level <= self.level:
            return
        if self._runner is not None:
            self._runner.close()
            self._runner = None
        if self._loaded is not None and (level == DROPPED or not self._device.park(self._loaded.weights)):
            self._device.forget(self._loaded.weights)
            self._loaded = None
        self.level = level
        self._device.trim_memory()

    def close(self) -> None:
        """End the threads and let go of the memory for good; weights go with their last holder. May be called again."""
        runner, self._runner, self._loaded = self._runner, None, None
        if runner is not None:
            runner.close()

    def restore(self) -> Runner:
        """Make a runner again, with empty KV storage. Raises what loading raises; then the sleep goes on."""
        loaded = self._loaded or load_model(self._folder, self._config)
        if loaded.config != self._model_config:
            raise CheckpointError(f"{self._folder}: config.json has become another model's during the sleep")
        self._device.unpark(loaded.weights)
        self._runner = self._make_runner(loaded)
        self._loaded, self.level = loaded, AWAKE
        return self._runner

    def _make_runner(self, loaded: LoadedModel) -> Runner:
        return loaded.device.runner(loaded, self.layout, self.max_model_len, self._config)


def check_level(level: int) -> None:
    """Raises InvalidRequestError."""
    if level not in (PARKED, DROPPED):
        raise InvalidRequestError(f"the level of sleep must be {PARKED} or {DROPPED}, got {level!r}")
