"""ArrivedValues: what came here with results and items; each value is decoded once, or discarded."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from deepserve._ref_holds import RefHolds
from deepserve._segments import remove_segment
from deepserve._values import decode_value
from deepserve.errors import DeepServeError
from deepserve.protocol.messages import Value, Welcome


class ArrivedValues:
    """Either way a value leaves shared memory, and the refs inside it are counted as received.

    segments: folder for large values, waits until it is known; welcome: as far as it has come.
    """

    def __init__(self, refs: RefHolds, segments: Callable[[], str], welcome: Callable[[], Welcome | None]) -> None:
        self._refs = refs
        self._segments = segments
        self._welcome = welcome

    def decode(self, value: Value, payload: bytes) -> Any:
        try:
            decoded = decode_value(value, payload, segments=self._segments, unlink=True)
        except BaseException:
            self.discard(value)
            raise
        if value.refs:
            self._refs.received(value.refs)  # while `decoded` holds what stays of them
        return decoded

    def discard(self, value: Value | None) -> None:
        """A result that nobody will read must not stay in shared memory."""
        if value is None:
            return
        if value.refs:
            self._refs.received(value.refs)
        welcome = self._welcome()
        if value.segment and welcome is not None:
            try:
                remove_segment(welcome.segments, value.segment)
            except (OSError, DeepServeError):
                pass
