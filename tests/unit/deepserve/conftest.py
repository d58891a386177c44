"""A folder in shared memory for the tests of values."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from deepserve import _arena


@pytest.fixture
def folder() -> Iterator[Path]:
    """In shared memory, where pages are what they are."""
    path = Path(f"/dev/shm/deepserve-test-{os.getpid()}-{os.urandom(4).hex()}")
    path.mkdir()
    yield path
    _arena._arenas.pop(str(path), None)
    for file in path.iterdir():
        file.unlink()
    path.rmdir()
