"""KeptBounds: of deployed functions that somebody scaled, what they were scaled to."""

from __future__ import annotations

from collections.abc import Iterable

import msgspec

from deepserve.protocol.specs import Scaling
from deepserve_controller.errors import StoreUnreadable
from deepserve_controller.service.store import Records


class KeptBounds:
    """They are in force until the function is deployed again or stopped, over a restart of the controller too."""

    def __init__(self, records: Records) -> None:
        """Raises StoreUnreadable."""
        self._records = records
        self._bounds = dict(map(_read, records.all()))

    def of(self, function_id: str) -> Scaling | None:
        return self._bounds.get(function_id)

    def keep(self, function_id: str, scaling: Scaling) -> None:
        """Raises StoreUnwritable, changing nothing."""
        self._records.put(function_id, msgspec.msgpack.encode(scaling))
        self._bounds[function_id] = scaling

    def drop(self, function_ids: Iterable[str]) -> list[str]:
        """Returns those that were kept. Raises StoreUnwritable, changing nothing."""
        kept = sorted(self._bounds.keys() & set(function_ids))
        self._records.remove(*kept)
        for function_id in kept:
            del self._bounds[function_id]
        return kept


def _read(record: tuple[str, bytes]) -> tuple[str, Scaling]:
    try:
        return record[0], msgspec.msgpack.decode(record[1], type=Scaling)
    except msgspec.DecodeError as error:
        raise StoreUnreadable(f"the stored bounds of {record[0]!r} cannot be read: {error}") from None
