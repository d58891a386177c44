from __future__ import annotations

import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.integration.controller.peers import Controller


@pytest.fixture
def folder() -> Iterator[Path]:
    """Short: a unix socket's path has at most 107 characters."""
    with tempfile.TemporaryDirectory(prefix="ds-") as name:
        yield Path(name)


@pytest.fixture(scope="module")
def shared() -> Iterator[Controller]:
    """One embedded controller for a module's tests; nothing of it is left afterwards."""
    with tempfile.TemporaryDirectory(prefix="ds-") as name:
        controller = Controller(Path(name))
        try:
            yield controller
            assert controller.stop() == 0, controller.said()
            assert "Traceback" not in controller.said(), controller.said()
            assert list(controller.runtime.iterdir()) == []
            assert not Path(controller.welcome.segments).exists()
        finally:
            controller.kill()
