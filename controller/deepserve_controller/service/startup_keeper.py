"""StartupKeeper: what starts of models took on this host outlives a controller that has a state folder."""

from __future__ import annotations

import os
import platform

from deepserve_controller.core.events import StartupsRemembered
from deepserve_controller.core.startup_views import NOTHING_KNOWN, KnownStartups
from deepserve_controller.service.kept_file import Kept, KeptFile
from deepserve_controller.service.loop import CoreLoop

FILE = "startups.json"
VERSION = 1
LOSS = "what starts of models take is learned anew"


class KeptStartups(Kept):
    """host: its name. Disks, buses and processors of another one say nothing of this."""

    host: str
    known: KnownStartups


class StartupKeeper:
    """See Learned."""

    def __init__(self, folder: str, cores: CoreLoop, host: str = "") -> None:
        self._file = KeptFile(os.path.join(folder, FILE), KeptStartups, VERSION, LOSS)
        self._cores = cores
        self._host = host or platform.node()
        self._written = NOTHING_KNOWN

    def restore(self) -> None:
        """Before functions are defined: their first pods are placed by it."""
        if (known := self.read()) != NOTHING_KNOWN:
            self._written = known
            self._cores.give(StartupsRemembered(known))

    def read(self) -> KnownStartups:
        kept = self._file.read()
        if kept is None:
            return NOTHING_KNOWN
        if kept.host != self._host:
            self._file.complain(f"was written on host {kept.host!r}, this is {self._host!r}")
            return NOTHING_KNOWN
        return kept.known

    def write(self) -> None:
        """Nothing where no start was seen since it was written last."""
        known = self._cores.cores.cluster_manager.startups.known()
        if known != self._written and self._file.write(KeptStartups(version=VERSION, host=self._host, known=known)):
            self._written = known
