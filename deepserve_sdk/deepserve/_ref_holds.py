"""RefHolds: what this process holds of the values that `put` stored, as the controller is told.

The controller counts how often it gave this process a ref; the process says so often that it let it go, once its last
Ref of that name is gone. A value that is on its way keeps its refs alive until its frame is written, so that what
this process says about one ref reaches the controller in the order in which it happened.
"""

from __future__ import annotations

import os
import threading
import time
from _thread import start_new_thread
from collections import deque
from collections.abc import Callable, Iterable
from typing import Any
from weakref import WeakValueDictionary

from deepserve.errors import DeepServeError
from deepserve.protocol.messages import HoldRefs, Message, ReleaseRefs

SOON_S = 0.05
"""What was let go is told with the next message, and after this time without one."""


class Hold:
    """What all Refs of one name in this process share; with the last of them it goes."""

    __slots__ = ("__weakref__", "count", "is_deleted", "name", "owner", "size_bytes")

    def __init__(self, name: str, size_bytes: int, owner: RefHolds | None) -> None:
        self.name = name
        self.size_bytes = size_bytes
        self.owner = owner
        self.count = 0
        """How often the controller thinks that it gave it here."""
        self.is_deleted = False

    def __del__(self) -> None:
        if self.count and self.owner is not None:
            self.owner.let_go(self)


class RefHolds:
    """One per client. send: writes one frame, and may raise."""

    def __init__(self, send: Callable[[Message], object]) -> None:
        self._send = send
        self._pid = os.getpid()
        self._lock = threading.RLock()
        self._holds: WeakValueDictionary[str, Hold] = WeakValueDictionary()
        self._is_flushing = False
        self.released: deque[tuple[str, int]] = deque()
        """Let go and not yet told; told before the next frame."""

    def hold(self, name: str, size_bytes: int) -> Hold:
        with self._lock:
            hold = self._holds.get(name)
            if hold is None:
                hold = self._holds[name] = Hold(name, size_bytes, self)
            return hold

    def stored(self, hold: Hold) -> None:
        """It was made here; the controller counts that as one."""
        with self._lock:
            hold.count += 1

    def received(self, names: Iterable[str]) -> None:
        """A value with these refs came here as a result, which the controller counts, whether it was decoded or not."""
        for name in names:
            with self._lock:
                hold = self._holds.get(name)
                if hold is not None:
                    hold.count += 1
            if hold is None:
                self._let_go(name, 1)

    def announce(self, names: Iterable[str]) -> None:
        """A value with these refs was read here while something else holds them: what of it stays is held from now."""
        with self._lock:
            holds = [hold for name in names if (hold := self._holds.get(name)) is not None and not hold.count]
            for hold in holds:
                hold.count += 1
        if holds:
            self._send(HoldRefs([hold.name for hold in holds]))

    def let_go(self, hold: Hold) -> None:
        """Safe in a finaliser: it takes no lock, nor does starting a bare thread."""
        self._let_go(hold.name, hold.count)

    def _let_go(
        self,
        name: str,
        count: int,
        start: Callable[..., object] = start_new_thread,
        getpid: Callable[[], int] = os.getpid,
    ) -> None:
        """The defaults are there when this module's own names have gone, at the interpreter's end."""
        if getpid() != self._pid:
            return  # a forked child: its parent holds it
        self.released.append((name, count))
        if not self._is_flushing:
            self._is_flushing = True
            try:
                start(self._flush_soon, ())
            except RuntimeError:  # the interpreter ends, and with it the link
                pass

    def _flush_soon(self) -> None:
        time.sleep(SOON_S)
        self._is_flushing = False
        self.flush()

    def flush(self) -> None:
        """Tell what was let go."""
        if message := self.take_released():
            try:
                self._send(message)
            except DeepServeError:  # the link ended, which lets everything go
                pass

    def take_released(self) -> ReleaseRefs | None:
        counts: dict[str, int] = {}
        while self.released:
            try:
                name, count = self.released.popleft()
            except IndexError:  # another thread took the last one
                break
            counts[name] = counts.get(name, 0) + count
        return ReleaseRefs(counts) if counts else None


class RefNames(tuple[str, ...]):
    """`Value.refs` on its way out: keeps the refs alive as long as the value is not written."""

    holds: list[Hold]

    @classmethod
    def of(cls, holds: list[Hold]) -> RefNames:
        names = cls(dict.fromkeys(hold.name for hold in holds))
        names.holds = holds
        return names


def forget_refs(names: tuple[str, ...]) -> None:
    """The value with them inside was written."""
    if isinstance(names, RefNames):
        names.holds = []


class _Carried(threading.local):
    """The refs that the value which this thread pickles now has inside."""

    holds: list[Hold] | None = None


carried = _Carried()


def note_carried(hold: Hold) -> None:
    if carried.holds is None:
        carried.holds = []
    carried.holds.append(hold)


def take_carried() -> Any:
    """The names for `Value.refs`; forgets them."""
    holds, carried.holds = carried.holds, None
    return RefNames.of(holds) if holds else ()
