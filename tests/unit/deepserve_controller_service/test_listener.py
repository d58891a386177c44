"""A listening socket when descriptors run out."""

from __future__ import annotations

import errno
import resource
import socket
from collections.abc import Iterator
from pathlib import Path

import pytest

from deepserve_controller.service.listener import Listener
from deepserve_controller.service.reactor import Reactor, use_reactor


@pytest.fixture
def reactor() -> Iterator[Reactor]:
    reactor = Reactor()
    use_reactor(reactor)
    yield reactor
    use_reactor(None)
    reactor.close()


def test_who_knocks_while_no_descriptor_is_free_waits_and_the_loop_sleeps(reactor: Reactor, tmp_path: Path) -> None:
    taken: list[socket.socket] = []
    listener = Listener(str(tmp_path / "s"), taken.append)
    client = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    client.connect(str(tmp_path / "s"))
    num_turns = 0

    def note() -> bool:
        nonlocal num_turns
        num_turns += 1
        return bool(taken)

    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    held = [socket.socket()]
    resource.setrlimit(resource.RLIMIT_NOFILE, (held[0].fileno() + 1, hard))
    try:
        with pytest.raises(OSError) as full:
            while True:
                held.append(socket.socket())
        assert full.value.errno == errno.EMFILE
        reactor.run_until(note, 0.05)
        assert not taken and num_turns < 20
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
        for other in held:
            other.close()
    assert reactor.run_until(note, 30)
    for connection in (*taken, client):
        connection.close()
    listener.close()
