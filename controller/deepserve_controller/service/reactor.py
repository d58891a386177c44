"""Reactor: the controller's event loop: descriptors by epoll, timers by a heap, signals by a wake-up descriptor.

asyncio's loop spends more on one read (a handle, a context, a transport, a protocol) than both cores on a whole call,
and importing it takes longer than all else an embedded controller does before its first pod. Where asyncio is needed
anyway (the HTTP port of `deepserve up`), its loop hosts this one: an epoll descriptor is itself one to wait for.
"""

from __future__ import annotations

import heapq
import os
import select
import signal
import socket
import sys
import time
import traceback
from collections import deque
from collections.abc import Callable
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import asyncio

READ, WRITE = select.EPOLLIN, select.EPOLLOUT
MAX_WAIT_S = 3600.0
"""epoll counts in milliseconds of 32 bits and refuses what does not fit: the timer of a month from now is waited for
hour by hour."""
SPIN_S = 150e-6
"""How long to look for more before sleeping. Being woken on another core takes 10 to 30 µs, twice a call."""
MAX_CREDIT = 8
MAX_ROUNDS = 64
"""After so many with news in each, a loop that hosts this one has its turn: clients that call without a pause must not
keep the HTTP port waiting."""

Ready = Callable[[int], None]
"""Called with epoll's event bits."""
Poll = Callable[[float], list[tuple[int, int]]]


class Timer:
    """One call to come; `cancel` may be called at any time."""

    __slots__ = ("at_s", "callback")

    def __init__(self, at_s: float, callback: Callable[[], None]) -> None:
        self.at_s = at_s
        self.callback: Callable[[], None] | None = callback

    def cancel(self) -> None:
        self.callback = None

    def go_off(self) -> None:
        """Nothing where another one, due at the same time, has cancelled it just now."""
        if self.callback is not None:
            self.callback()


class Spin:
    """Looks for more a moment before the loop sleeps, where lately that would have been worth it.

    One call after another from one script finds the loop awake, which saves half of the call's wake-ups. It earns
    credit by news that came within the moment, whether looked for or slept through, and loses it by looking in vain.
    """

    def __init__(self) -> None:
        self.is_allowed: Callable[[], bool] = lambda: True
        """Whether a core is free for it."""
        self._has_cores = len(os.sched_getaffinity(0)) > 1
        self._credit = 0

    def look(self, poll: Poll) -> list[tuple[int, int]]:
        if not self._credit or not self.is_allowed():
            return []
        until_s = time.monotonic() + SPIN_S
        while time.monotonic() < until_s:
            if ready := poll(0):
                self._credit = MAX_CREDIT
                return ready
        self._credit -= 1
        return []

    def sleep(self, poll: Poll, wait_s: float) -> list[tuple[int, int]]:
        began_s = time.monotonic()
        ready = poll(wait_s)
        if ready and self._has_cores and self._credit < MAX_CREDIT and time.monotonic() - began_s < SPIN_S:
            self._credit += 1
        return ready


class Reactor:
    """Calls back from one thread, the one that runs it. A callback that raises is reported and ends nothing else."""

    def __init__(self) -> None:
        self._epoll = select.epoll()
        self._ready: dict[int, Ready] = {}
        self._soon: deque[Callable[[], None]] = deque()
        self._timers: list[tuple[float, int, Timer]] = []
        self._number = 0
        self._signals: dict[int, Callable[[], None]] = {}
        self._signal_pipe: tuple[socket.socket, socket.socket] | None = None
        self._host: asyncio.AbstractEventLoop | None = None
        self._host_timer: asyncio.TimerHandle | None = None
        self._is_turning = False
        self._spin = Spin()

    @property
    def spin(self) -> Spin:
        return self._spin

    # --- descriptors ---

    def watch(self, fd: int, ready: Ready) -> None:
        """Call `ready` whenever `fd` can be read, or has ended."""
        self._epoll.register(fd, READ)
        self._ready[fd] = ready

    def watch_writing(self, fd: int, is_wanted: bool) -> None:
        """Also when it can be written, or no longer so."""
        self._epoll.modify(fd, READ | WRITE if is_wanted else READ)

    def unwatch(self, fd: int) -> None:
        """Before it is closed."""
        if self._ready.pop(fd, None) is not None:
            self._epoll.unregister(fd)

    # --- time ---

    def call_soon(self, callback: Callable[[], None]) -> None:
        """After what is being done now."""
        self._soon.append(callback)
        if self._host is not None and not self._is_turning:
            self._host.call_soon(self._turn)

    def call_later(self, delay_s: float, callback: Callable[[], None]) -> Timer:
        return self.call_at(time.monotonic() + delay_s, callback)

    def call_at(self, at_s: float, callback: Callable[[], None]) -> Timer:
        """At a time of the monotonic clock, which is the clock that the cores are given."""
        timer = Timer(at_s, callback)
        self._number += 1
        heapq.heappush(self._timers, (at_s, self._number, timer))
        if self._host is not None and not self._is_turning and self._timers[0][2] is timer:
            self._arm_host()
        return timer

    # --- signals ---

    def on_signal(self, number: int, callback: Callable[[], None]) -> None:
        """Call it from the loop, not from within whatever the signal interrupts."""
        if self._signal_pipe is None:
            here, there = self._signal_pipe = socket.socketpair()
            here.setblocking(False)
            there.setblocking(False)
            signal.set_wakeup_fd(there.fileno(), warn_on_full_buffer=False)
            self.watch(here.fileno(), self._take_signals)
        self._signals[number] = callback
        signal.signal(number, _noted)
        signal.siginterrupt(number, False)

    def off_signal(self, number: int) -> None:
        self._signals.pop(number, None)
        signal.signal(number, signal.SIG_DFL)

    def _take_signals(self, events: int) -> None:
        assert self._signal_pipe is not None
        try:
            numbers = set(self._signal_pipe[0].recv(4096))
        except BlockingIOError:
            return
        for number in numbers:
            if (callback := self._signals.get(number)) is not None:
                callback()

    # --- running ---

    def run_until(self, is_over: Callable[[], bool], limit_s: float | None = None) -> bool:
        """Runs until `is_over` says so after something happened, or for `limit_s`; returns what it says at the end."""
        if limit_s is not None:
            self.call_later(limit_s, _nothing)  # wakes the loop
        until_s = time.monotonic() + limit_s if limit_s is not None else float("inf")
        poll = self._epoll.poll
        while not is_over():
            if time.monotonic() >= until_s:
                return is_over()
            ready = poll(0) or self._spin.look(poll) or self._spin.sleep(poll, self._wait_s())
            self._handle(ready)
        return True

    def _handle(self, ready: list[tuple[int, int]]) -> None:
        self._is_turning = True
        for fd, events in ready:
            callback = self._ready.get(fd)  # one that was handled just now may have closed it
            if callback is None:
                continue
            try:
                callback(events)
            except Exception:
                _report()
        if self._soon or self._timers:
            self._run_due()
        self._is_turning = False

    def _run_due(self) -> None:
        timers = self._timers
        if timers and timers[0][0] <= (now_s := time.monotonic()):
            while timers and timers[0][0] <= now_s:
                self._soon.append(heapq.heappop(timers)[2].go_off)
        while self._soon:
            try:
                self._soon.popleft()()
            except Exception:
                _report()

    def _wait_s(self) -> float:
        if self._soon:
            return 0.0
        timers = self._timers
        while timers and timers[0][2].callback is None:
            heapq.heappop(timers)
        return min(MAX_WAIT_S, max(0.0, timers[0][0] - time.monotonic())) if timers else MAX_WAIT_S

    # --- inside an asyncio loop ---

    def enter(self, host: asyncio.AbstractEventLoop) -> None:
        """From now on `host` runs this one, on the same thread."""
        self._host = host
        host.add_reader(self._epoll.fileno(), self._turn)
        host.call_soon(self._turn)

    def leave(self) -> None:
        """Out of the host again; `run_until` may follow."""
        assert self._host is not None
        self._host.remove_reader(self._epoll.fileno())
        if self._host_timer is not None:
            self._host_timer.cancel()
        self._host = self._host_timer = None

    def _turn(self) -> None:
        if self._host is None:
            return
        poll = self._epoll.poll
        for _ in range(MAX_ROUNDS):
            ready = poll(0) or self._spin.look(poll)
            self._handle(ready)
            if not ready and not self._soon:
                break
        self._arm_host()

    def _arm_host(self) -> None:
        assert self._host is not None
        if self._host_timer is not None:
            self._host_timer.cancel()
        wait_s = self._wait_s()
        self._host_timer = self._host.call_later(wait_s, self._turn) if self._timers else None

    def close(self) -> None:
        for number in list(self._signals):
            self.off_signal(number)
        if self._signal_pipe is not None:
            signal.set_wakeup_fd(-1)
            for end in self._signal_pipe:
                end.close()
        self._epoll.close()


def _noted(number: int, frame: object) -> None:
    """The wake-up descriptor tells of it."""


def _nothing() -> None: ...


def _report() -> None:
    traceback.print_exc(file=sys.stderr)


_running: Reactor | None = None


def use_reactor(reactor: Reactor | None) -> None:
    """The one that this process's service runs on."""
    global _running
    _running = reactor


def running_reactor() -> Reactor:
    assert _running is not None, "no reactor runs here"
    return _running
