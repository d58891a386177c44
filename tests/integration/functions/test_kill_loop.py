"""A short kill loop; `make kill-loop` runs the long one."""

from __future__ import annotations

import pytest

import deepserve
from deepserve.protocol.messages import Timings
from tests import kill_loop
from tests.killing.ledger import Ledger, judge
from tests.killing.tally import Tally, report

REPORT = {"stopped": {}, "not_begun": 0, "slowest_s": 0.0, "runs": 0, "violations": []}


@pytest.mark.parametrize("mode", ["embedded", "up", "web"])
def test_every_call_ends_once_and_nothing_is_left_whatever_is_killed(mode: str) -> None:
    tally = kill_loop.run_worlds(num_kills=9, seed=7, mode=mode)
    assert not tally.violations, report(tally, seed=7, took_s=0.0)
    assert tally.num_kills >= 9 and sum(tally.begun.values()) > 0


def test_what_the_loop_is_there_to_find_is_found() -> None:
    assert judge(deepserve.PodLost("pod-1 was lost: killed by SIGKILL"), is_cancelled=False) == ""
    assert "names no cause" in judge(deepserve.PodLost("gone"), is_cancelled=False)
    assert "unexpected ValueError" in judge(ValueError("x"), is_cancelled=False)
    assert "unexpected CallCancelled" in judge(deepserve.CallCancelled("cancelled by the caller"), is_cancelled=False)
    assert "does not say how" in judge(deepserve.CallCancelled("cancelled by the caller"), is_cancelled=True)

    class Call:
        id = "rq-1"
        timings = Timings(attempts=2)

    ledger = Ledger()
    ledger.account("spawn", Call(), "ok")  # type: ignore[arg-type]
    assert ledger.violations == [f"spawn: rq-1 has uncounted attempts: {Call.timings}"]
    tally = Tally()
    tally.add({**REPORT, "begun": {"call": 2}, "outcomes": {"call": {"ok": 1}}}, "world 1")
    assert tally.violations == ["world 1: 2 calls begun, 1 ended"]
