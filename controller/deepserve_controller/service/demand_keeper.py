"""DemandKeeper: what is known of the demand for models outlives a controller that has a state folder."""

from __future__ import annotations

import contextlib
import os
import sys
import time

import msgspec

from deepserve_controller.core.events import DemandRemembered
from deepserve_controller.core.preload_views import KnownModel
from deepserve_controller.service.loop import CoreLoop
from deepserve_controller.service.private_files import private
from deepserve_controller.service.reactor import running_reactor

FILE = "demand.json"
VERSION = 1
PERIOD_S = 300.0
MAX_BYTES = 4 << 20


class _Head(msgspec.Struct):
    version: int


class _Kept(msgspec.Struct):
    """written_at: Unix time, from which the models' `idle_s` count."""

    models: list[KnownModel]
    written_at: float
    version: int = VERSION


class DemandKeeper:
    """Writes now and then, and at the end. A file that cannot be read or written costs the forecasts alone."""

    def __init__(self, folder: str, cores: CoreLoop) -> None:
        self._path = os.path.join(folder, FILE)
        self._cores = cores
        self._written_s = time.monotonic()

    def start(self) -> None:
        """Once the deployed functions are defined."""
        if models := self.read():
            self._cores.give(DemandRemembered(tuple(models)))
        running_reactor().call_later(PERIOD_S, self._tick)

    def read(self) -> list[KnownModel]:
        """What there is; none, and a line that says why, where it cannot be read."""
        try:
            with open(self._path, "rb") as file:
                data = file.read(MAX_BYTES)
            version = msgspec.json.decode(data, type=_Head).version
            if version != VERSION:
                return self._complain(f"has format {version}, this version of DeepServe reads {VERSION}")
            kept = msgspec.json.decode(data, type=_Kept)
        except FileNotFoundError:
            return []
        except OSError as error:
            return self._complain(f"cannot be read: {error.strerror}")
        except (msgspec.DecodeError, RecursionError) as error:
            return self._complain(f"cannot be read: {error}")
        since_s = max(0.0, time.time() - kept.written_at)
        return [msgspec.structs.replace(model, idle_s=model.idle_s + since_s) for model in kept.models]

    def write(self) -> None:
        """Whole or not at all; nothing where no model was in use since it was written last."""
        now_s = time.monotonic()
        models = self._cores.cores.cluster_manager.known_models(now_s)
        if all(model.idle_s > now_s - self._written_s for model in models):
            return
        unfinished = f"{self._path}.new"
        try:
            with open(unfinished, "wb", opener=private) as file:
                file.write(msgspec.json.encode(_Kept(models, time.time())))
            os.replace(unfinished, self._path)
        except OSError as error:
            with contextlib.suppress(OSError):
                os.unlink(unfinished)
            self._complain(f"cannot be written: {error.strerror}")
        else:
            self._written_s = now_s

    def _tick(self) -> None:
        self.write()
        running_reactor().call_later(PERIOD_S, self._tick)

    def _complain(self, text: str) -> list[KnownModel]:
        print(f"deepserve: {self._path} {text}; what is known of the demand for models begins anew", file=sys.stderr)
        return []
