"""Learned: what a controller has learned of its host and of its models, kept for the next one of its state folder."""

from __future__ import annotations

from deepserve_controller.service.demand_keeper import DemandKeeper
from deepserve_controller.service.loop import CoreLoop
from deepserve_controller.service.reactor import running_reactor
from deepserve_controller.service.startup_keeper import StartupKeeper

PERIOD_S = 300.0


class Learned:
    """Read at the start, written now and then and at the end, each part where it has changed."""

    def __init__(self, folder: str, cores: CoreLoop) -> None:
        self._startups = StartupKeeper(folder, cores)
        self._demand = DemandKeeper(folder, cores)

    def restore_host(self) -> None:
        """Before functions are defined."""
        self._startups.restore()

    def restore_functions(self) -> None:
        """Once the deployed ones are defined. From here on all is written, from time to time."""
        self._demand.restore()
        running_reactor().call_later(PERIOD_S, self._tick)

    def write(self) -> None:
        self._startups.write()
        self._demand.write()

    def _tick(self) -> None:
        self.write()
        running_reactor().call_later(PERIOD_S, self._tick)
