"""DemandKeeper: what is known of the demand for models outlives a controller that has a state folder."""

from __future__ import annotations

import os
import time

import msgspec

from deepserve_controller.core.events import DemandRemembered
from deepserve_controller.core.preload_views import KnownModel
from deepserve_controller.service.kept_file import Kept, KeptFile
from deepserve_controller.service.loop import CoreLoop

FILE = "demand.json"
VERSION = 1
LOSS = "what is known of the demand for models begins anew"


class KeptDemand(Kept):
    """The models' `idle_s` count from when it was written."""

    models: list[KnownModel]


class DemandKeeper:
    """See Learned."""

    def __init__(self, folder: str, cores: CoreLoop) -> None:
        self._file = KeptFile(os.path.join(folder, FILE), KeptDemand, VERSION, LOSS)
        self._cores = cores
        self._written_s = time.monotonic()

    def restore(self) -> None:
        """Once the deployed functions are defined."""
        if models := self.read():
            self._cores.give(DemandRemembered(tuple(models)))

    def read(self) -> list[KnownModel]:
        kept = self._file.read()
        if kept is None:
            return []
        return [msgspec.structs.replace(model, idle_s=model.idle_s + kept.age_s) for model in kept.models]

    def write(self) -> None:
        """Nothing where no model was in use since it was written last."""
        now_s = time.monotonic()
        models = self._cores.cores.cluster_manager.known_models(now_s)
        if any(model.idle_s <= now_s - self._written_s for model in models):
            if self._file.write(KeptDemand(version=VERSION, models=models)):
                self._written_s = now_s
