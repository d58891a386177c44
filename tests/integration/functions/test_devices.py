"""Functions with accelerators, on a host that says it has eight NPUs."""

from __future__ import annotations

import pytest

from tests.integration.functions.conftest import ScriptRunner

HOLDERS = """
import os, deepserve

def seen():
    return [os.environ.get(name) for name in ("ASCEND_RT_VISIBLE_DEVICES", "CUDA_VISIBLE_DEVICES")]

@deepserve.function(npu="910c:4")
def four(other): return seen()

@deepserve.function(accelerator=["gpu:h100", "cpu"])
def falls_back(): return seen()

@deepserve.function(npu=9)
def too_many(): return seen()

@deepserve.function
def plain(): return seen()

if __name__ == "__main__":
    both = [call.get() for call in [four.spawn(1), four.spawn(2)]]
    print(sorted(both), falls_back.remote(), plain.remote())
    try:
        too_many.remote()
    except deepserve.errors.Refused as error:
        print("refused:", error)
"""


@pytest.fixture
def npus(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DEEPSERVE_DEVICES", "npu:910c:8")
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    monkeypatch.delenv("ASCEND_RT_VISIBLE_DEVICES", raising=False)


def test_pods_see_what_they_hold(npus: None, script: ScriptRunner) -> None:
    ran = script.run(HOLDERS)
    assert ran.returncode == 0, ran.stderr
    first, second = ran.stdout.splitlines()[:2]
    held = [["0,1,2,3", ""], ["4,5,6,7", ""]]
    # One pod may have run both.
    assert first in (f"{both} ['', ''] [None, None]" for both in (held, [held[0]] * 2, [held[1]] * 2))
    assert "needs npu::9; this host has 8 npu:910c" in second
