"""The reactor alone, and hosted by an asyncio loop."""

from __future__ import annotations

import asyncio
import os
import signal
import socket
import time
from collections.abc import Iterator

import pytest

from deepserve_controller.service.reactor import Reactor


@pytest.fixture
def reactor() -> Iterator[Reactor]:
    reactor = Reactor()
    yield reactor
    reactor.close()


def test_timers_go_off_in_their_order_and_cancelled_ones_do_not(reactor: Reactor) -> None:
    seen: list[str] = []
    at_s = time.monotonic()
    reactor.call_at(at_s + 0.02, lambda: seen.append("later"))
    reactor.call_at(at_s + 0.01, lambda: seen.append("cancelled")).cancel()
    reactor.call_at(at_s, lambda: seen.append("first"))
    reactor.call_soon(lambda: seen.append("soon"))
    assert reactor.run_until(lambda: "later" in seen and "soon" in seen, 30)
    seen.remove("soon")
    assert seen == ["first", "later"]


def test_a_timer_that_another_one_of_the_same_time_cancels_does_not_go_off(reactor: Reactor) -> None:
    seen: list[str] = []
    at_s = time.monotonic()
    reactor.call_at(at_s, lambda: second.cancel())
    second = reactor.call_at(at_s, lambda: seen.append("cancelled"))
    reactor.call_at(at_s, lambda: seen.append("last"))
    assert reactor.run_until(lambda: "last" in seen, 30)
    assert seen == ["last"]


def test_a_timer_of_a_year_from_now_is_waited_for(reactor: Reactor) -> None:
    here, there = socket.socketpair()
    seen: list[bytes] = []
    reactor.watch(here.fileno(), lambda events: seen.append(here.recv(10)))
    reactor.call_later(365 * 86400.0, lambda: seen.append(b"too early"))
    reactor.call_later(0.0, lambda: there.send(b"x") and None)
    assert reactor.run_until(lambda: bool(seen))
    assert seen == [b"x"] and reactor._wait_s() <= 3600.0
    reactor.unwatch(here.fileno())
    here.close()
    there.close()


def test_it_gives_up_at_its_limit(reactor: Reactor) -> None:
    began_s = time.monotonic()
    assert not reactor.run_until(lambda: False, 0.03)
    assert time.monotonic() - began_s >= 0.03


def test_a_callback_that_raises_ends_nothing_else(reactor: Reactor, capsys: pytest.CaptureFixture[str]) -> None:
    here, there = socket.socketpair()
    seen: list[bytes] = []

    def fail() -> None:
        raise RuntimeError("a defect")

    reactor.watch(here.fileno(), lambda events: seen.append(here.recv(10)))
    reactor.call_soon(fail)
    there.send(b"x")
    assert reactor.run_until(lambda: bool(seen), 30)
    assert "a defect" in capsys.readouterr().err
    reactor.unwatch(here.fileno())
    here.close()
    there.close()


def test_one_callback_may_close_what_another_was_about_to_be_called_for(reactor: Reactor) -> None:
    pairs = [socket.socketpair() for _ in range(2)]
    seen: list[int] = []

    def take(index: int) -> None:
        seen.append(index)
        for here, _ in pairs:
            reactor.unwatch(here.fileno())

    for index, (here, there) in enumerate(pairs):
        reactor.watch(here.fileno(), lambda events, index=index: take(index))  # type: ignore[misc]
        there.send(b"x")
    reactor.run_until(lambda: bool(seen), 30)
    reactor.run_until(lambda: False, 0.01)
    assert len(seen) == 1
    for pair in pairs:
        for end in pair:
            end.close()


def test_a_signal_is_told_from_the_loop(reactor: Reactor) -> None:
    seen: list[int] = []
    reactor.on_signal(signal.SIGUSR2, lambda: seen.append(1))
    reactor.call_soon(lambda: os.kill(os.getpid(), signal.SIGUSR2))
    assert reactor.run_until(lambda: bool(seen), 30)


def test_asyncio_hosts_it(reactor: Reactor) -> None:
    here, there = socket.socketpair()
    seen: list[str] = []

    async def host() -> None:
        reactor.enter(asyncio.get_running_loop())
        reactor.watch(here.fileno(), lambda events: seen.append(here.recv(10).decode()))
        reactor.call_soon(lambda: seen.append("soon"))
        there.send(b"read")
        while len(seen) < 2:
            await asyncio.sleep(0.005)
        reactor.call_later(0.02, lambda: seen.append("timer"))
        reactor.call_later(0.01, lambda: seen.append("cancelled")).cancel()
        while len(seen) < 3:
            await asyncio.sleep(0.005)
        reactor.call_later(0.01, lambda: reactor.call_soon(lambda: seen.append("from a timer")))
        while len(seen) < 4:
            await asyncio.sleep(0.005)
        reactor.leave()

    asyncio.run(asyncio.wait_for(host(), 30))
    assert sorted(seen[:2]) == ["read", "soon"] and seen[2:] == ["timer", "from a timer"]
    reactor.unwatch(here.fileno())
    here.close()
    there.close()


def test_a_host_has_its_turn_though_there_is_always_more(reactor: Reactor) -> None:
    here, there = socket.socketpair()
    num_read = 0

    def read(events: int) -> None:
        nonlocal num_read
        num_read += len(here.recv(1))
        there.send(b"x")

    async def host() -> None:
        reactor.enter(asyncio.get_running_loop())
        reactor.watch(here.fileno(), read)
        there.send(b"x")
        while num_read < 1000:
            await asyncio.sleep(0)
        reactor.leave()

    asyncio.run(host())
    assert num_read < 100_000
    reactor.unwatch(here.fileno())
    here.close()
    there.close()
