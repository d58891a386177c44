"""DeviceHold: what an engine has of its device, and how it lets go of that and takes it again (sleep and wake)."""

from __future__ import annotations

import logging

from .config import EngineConfig
from .device.base import Runner
from .errors import CheckpointChangedError, InvalidRequestError, LoadingError
from .kv_memory import plan_kv_memory
from .models.loader import LoadedModel, load_model

_logger = logging.getLogger("flowserve")

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
        self._files = loaded.files
        self._device = loaded.device
        self._loaded: LoadedModel | None = loaded
        self._runner: Runner | None = self._make_runner(loaded)

    @property
    def runner(self) -> Runner:
        assert self._runner is not None, "the engine sleeps"
        return self._runner

    @property
    def is_arriving(self) -> bool:
        """See Runner."""
        return self._runner is not None and self._runner.is_arriving

    @property
    def read_s(self) -> float:
        """See DeviceAdapter; 0 while it keeps no weights."""
        return 0.0 if self._loaded is None else self._device.read_s(self._loaded.weights)

    @property
    def loading_error(self) -> LoadingError | None:
        """See Runner."""
        return None if self._runner is None else self._runner.loading_error

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
        """Make a runner again, with empty KV storage. Raises what loading raises; then the sleep goes on.

        Weights that were dropped are read again only from the very files that they were: the tokenizer and what lower
        tiers keep of the KV cache are of those. Raises CheckpointChangedError where they are others. Weights that were
        kept stay what they are, with a warning.
        """
        changed = self._files.changed()
        loaded = self._loaded
        if loaded is None:
            loaded = self._read_again(changed)
        elif changed:
            _logger.warning("%s: the engine goes on with the weights that it has", changed)
        self._device.unpark(loaded.weights)
        self._runner = self._make_runner(loaded)
        self._loaded, self.level = loaded, AWAKE
        return self._runner

    def _read_again(self, changed: str) -> LoadedModel:
        if not changed:
            loaded = load_model(self._folder, self._config)
            changed = self._files.changed()
            if not changed:
                return loaded
        raise CheckpointChangedError(f"{changed}, it has become another model during the sleep")

    def _make_runner(self, loaded: LoadedModel) -> Runner:
        return loaded.device.runner(loaded, self.layout, self.max_model_len, self._config)


def check_level(level: int) -> None:
    """Raises InvalidRequestError."""
    if level not in (PARKED, DROPPED):
        raise InvalidRequestError(f"the level of sleep must be {PARKED} or {DROPPED}, got {level!r}")
