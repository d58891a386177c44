"""Functions with accelerators, on a host that says it has eight NPUs."""

from __future__ import annotations

import json

import pytest

from tests.integration.functions.conftest import ScriptRunner

HOLDERS = """
import os, deepserve, deepserve._current_client
from deepserve.cli import status as command
from contextlib import contextmanager

@contextmanager
def here():
    yield deepserve._current_client.current_client()

def show_status(**options):
    command.connected = here
    command.show_status(**options)

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
    status = deepserve._current_client.current_client().query("status", {})
    print([device["id"] for device in status["devices"] if device["pod_id"] and device["model"] == "910c"])
    show_status(as_json=False)
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
    first, ids, *shown, last = ran.stdout.splitlines()
    held = [["0,1,2,3", ""], ["4,5,6,7", ""]]
    # One pod may have run both.
    assert first in (f"{both} ['', ''] [None, None]" for both in (held, [held[0]] * 2, [held[1]] * 2))
    assert ids in (str(list("01234567")), str(list("0123")), str(list("4567")))
    rows = [line.split() for line in shown if line.strip().startswith("npu ")]
    assert len(rows) == 8 and [row[1] for row in rows if row[-1].startswith("pod-")] == json.loads(
        ids.replace("'", '"')
    )
    assert "needs npu::9; this host has 8 npu:910c" in last
