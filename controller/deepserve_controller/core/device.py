"""Devices of the host, and what a pod holds of them."""

from __future__ import annotations

from typing import NamedTuple


class Device(NamedTuple):
    """An NPU or GPU of the host. id: as `VISIBLE_DEVICES` names it. model: in lower case, empty where unknown.

    engine: where it is only pretended, the device on which models that hold it compute.
    """

    kind: str
    id: str
    model: str = ""
    engine: str = ""

    @property
    def place(self) -> str:
        """Devices of one place stand for each other."""
        return f"{self.kind}:{self.model}" if self.model else self.kind

    @property
    def names(self) -> list[str]:
        """Of its model, any of which will do: an h100-80gb-hbm3 is an h100."""
        return self.model.split("-")


class Allotment(NamedTuple):
    """What a pod holds. accelerator: the choice of its function's that it is, as it was written. engine: see Device."""

    accelerator: str = ""
    kind: str = ""
    ids: tuple[str, ...] = ()
    engine: str = ""
