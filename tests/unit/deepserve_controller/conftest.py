"""Fresh cores for each test; every event given to them is followed by a check of their invariants."""

from __future__ import annotations

import pytest

from tests.unit.deepserve_controller.harness import Cluster, Jobs


@pytest.fixture
def jobs() -> Jobs:
    return Jobs()


@pytest.fixture
def cluster() -> Cluster:
    return Cluster()
