"""Starts that fail: how often they are tried again, and what those who wait are told."""

from __future__ import annotations

import pytest

from deepserve_controller.core.start_failures import MAX_START_FAILURES, START_BACKOFF_S, Failure, StartFailures


def test_a_start_is_tried_again_later_each_time_and_then_given_up() -> None:
    failures, died = StartFailures(), Failure("ended", "exited with 1")
    waits_s = []
    for at_s in range(10, 10 + MAX_START_FAILURES - 1):
        assert failures.note(at_s, died)
        waits_s.append(failures.retry_s - at_s)
    assert waits_s == pytest.approx([START_BACKOFF_S, 2 * START_BACKOFF_S])
    assert not failures.note(20.0, died)
    assert failures.epitaph(died, 5.0) == f"exited with 1 ({MAX_START_FAILURES} tries)"
    assert (failures.count, failures.retry_s, failures.last_s) == (0, 0.0, 20.0)
    assert failures.note(30.0, died), "the count begins anew"


def test_code_that_loads_too_slowly_is_not_tried_again() -> None:
    failures, slow = StartFailures(), Failure("loads slowly", "still loading")
    assert not failures.note(1.0, slow)
    assert failures.epitaph(slow, 2.5) == "not ready within its startup_timeout of 2.5 s: still loading"


def test_a_pod_that_gets_ready_clears_the_count() -> None:
    failures, slow = StartFailures(), Failure("starts slowly", "no word of it")
    assert failures.note(1.0, slow)
    failures.clear()
    assert failures.note(2.0, slow) and failures.retry_s == pytest.approx(2.0 + START_BACKOFF_S)
