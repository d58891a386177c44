"""How the property tests draw: the same examples in every run, however slow the machine is.

Hypothesis would fail an example that takes 200 ms and a test whose examples are slow to make, which says something of
the machine. To look for new examples: `HYPOTHESIS_PROFILE=search`.
"""

from __future__ import annotations

import os
import shutil
import signal
import sys
from pathlib import Path

import pytest
from hypothesis import HealthCheck, settings

settings.register_profile(
    "same", deadline=None, derandomize=True, database=None, suppress_health_check=[HealthCheck.too_slow]
)
settings.register_profile("search", deadline=None, max_examples=2000, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile(os.environ.get("HYPOTHESIS_PROFILE", "same"))

# Kernels compiled by one run serve the next; the packed weights of models that tests make do not.
_CACHE = Path(os.environ.setdefault("FLOWSERVE_CACHE", str(Path(__file__).parent.parent / ".test_cache" / "flowserve")))


if "PYTEST_XDIST_WORKER" in os.environ:  # as in a run without workers: what lies in no file travels by value
    sys.modules["__main__"].__file__ = str(Path(pytest.__file__).with_name("__main__.py"))


def pytest_runtest_setup() -> None:
    """An interrupt raises KeyboardInterrupt: not so where a shell's background job ignores it, which processes that
    tests start would inherit, and behind a test that ran what pods do with it."""
    signal.signal(signal.SIGINT, signal.default_int_handler)


def pytest_sessionfinish(session: pytest.Session) -> None:
    # By the last to end: a worker's weights may be mapped by another's test.
    if "PYTEST_XDIST_WORKER" not in os.environ:
        shutil.rmtree(_CACHE / "weights", ignore_errors=True)
