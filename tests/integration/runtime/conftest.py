from __future__ import annotations

import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.integration.runtime.stand_in import Peer, StandIn, StandInPod, ready


@pytest.fixture(scope="session")
def controller() -> Iterator[StandIn]:
    with tempfile.TemporaryDirectory(prefix="ds-") as folder:  # short: a socket's path has 107 bytes
        stand_in = StandIn(Path(folder))
        yield stand_in
        stand_in.close()


@pytest.fixture(scope="session")
def template(controller: StandIn) -> Peer:
    peer = controller.start_template()
    ready(peer)
    return peer


@pytest.fixture
def pod(controller: StandIn, template: Peer) -> Iterator[StandInPod]:
    """A warm pod; its end is waited for, so that reports of one test never reach the next."""
    forked = controller.fork_pod(template)
    yield forked
    forked.link.connection.close()
    if not forked.has_exited:
        forked.exited()
