"""Stored values on this host: the book of who holds them, their files, and the timer of their time to live."""

from __future__ import annotations

import re
import time
from collections.abc import Callable, Iterable

from deepserve.protocol.messages import DeleteRef, HoldRefs, ReleaseRefs, StoreRef
from deepserve_controller.core.ref_book import NEVER_S, RefBook
from deepserve_controller.service.reactor import Timer, running_reactor

_REF_NAME = re.compile(r"r-[A-Za-z0-9._-]{1,97}")
MAX_TTL_S = 10 * 365 * 86400.0


class Refs:
    """remove: takes the name of a segment that nobody will ask for any more."""

    def __init__(self, remove: Callable[[str], None]) -> None:
        self.book = RefBook()
        self._remove = remove
        self._timer: Timer | None = None
        self._timer_at_s = NEVER_S

    # --- from links ---

    def store(self, link_id: str, message: StoreRef) -> None:
        if not _REF_NAME.fullmatch(message.name):
            return  # of a confused peer: it would name somebody else's file
        until_s = time.monotonic() + min(message.ttl_s, MAX_TTL_S) if message.ttl_s > 0 else NEVER_S
        self.book.store(message.name, link_id, message.value.size_bytes, until_s, message.value.refs)
        self._wake_at(until_s)

    def hold(self, link_id: str, message: HoldRefs) -> None:
        self.book.hold(message.names, link_id)

    def release(self, link_id: str, message: ReleaseRefs) -> None:
        self._end(self.book.release(message.counts, link_id))

    def delete(self, message: DeleteRef) -> None:
        self._end(self.book.delete(message.name))

    def link_closed(self, link_id: str) -> None:
        self._end(self.book.link_closed(link_id))

    # --- from values on their way ---

    def carry(self, names: Iterable[str], carrier: str) -> None:
        self.book.carry(names, carrier)

    def drop(self, carrier: str) -> None:
        if gone := self.book.drop(carrier):
            self._end(gone)

    def given(self, names: Iterable[str], link_id: str) -> None:
        """A value with these refs inside was sent to `link_id`, which counts it as one hold of each."""
        self.book.hold(names, link_id)

    # --- inside ---

    def _end(self, gone: list[str]) -> None:
        for name in gone:
            self._remove(name)

    def _wake_at(self, at_s: float) -> None:
        """The timer of a ref that ended before its time goes off for nothing: cheaper than to search the next one."""
        if at_s >= self._timer_at_s:
            return
        if self._timer is not None:
            self._timer.cancel()
        self._timer_at_s = at_s
        self._timer = running_reactor().call_at(at_s, self._expire)

    def _expire(self) -> None:
        self._timer, self._timer_at_s = None, NEVER_S
        self._end(self.book.expire(time.monotonic()))
        self._wake_at(self.book.next_end_s)
