"""`flowserve bench` on this machine, quickly: that it measures every work, not what."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest


@pytest.mark.slow
def test_a_quick_run_measures_every_work(tmp_path: Path) -> None:
    out, page = tmp_path / "report.json", tmp_path / "report.md"
    words = [
        "--models",
        "toy",
        "--who",
        "flowserve int8",
        "--quick",
        "--json",
        "--output",
        str(out),
        "--output",
        str(page),
    ]
    done = subprocess.run(
        [sys.executable, "-m", "flowserve", "bench", *words], capture_output=True, text=True, timeout=300
    )
    assert done.returncode == 0, done.stderr
    report = json.loads(done.stdout)
    assert report == json.loads(out.read_text())
    assert report["failed"] == {} and report["not_measured"] == []
    assert report["command"] == 'flowserve bench --models "toy" --who "flowserve int8" --quick'
    assert all(gbs > 0 for gbs in report["limits"]["read_gbs"].values()) and report["limits"]["int8_gflops"] > 0
    ours = {row["work"]: row for row in report["rows"] if row["who"] == "FlowServe int8"}
    bounds = {row["work"] for row in report["rows"] if row["who"] == "bound"}
    assert list(ours) == [
        "one", "first", "sixteen", "shared cold", "shared warm", "prompt",
        "fresh", "forked", "packing", "base", "loading", "packing memory", "loaded", "memory",
        "sleep 1", "wake 1", "asleep 1", "sleep 2", "wake 2", "asleep 2",
        "cost median", "cost p90",
    ]  # fmt: skip
    assert bounds == {"one", "first", "sixteen", "shared cold", "shared warm", "prompt"}
    for row in ours.values():
        assert row["median"] > 0 and row["of_ours"] == 1.0
    assert ours["one"]["num_samples"] > 1, "short works have several samples"
    assert ours["loading"]["of_weights"] > ours["loading"]["above_base"]
    assert report["finished"] and list(report["turns_s"])[:2] == ["limits", "FlowServe int8, toy"]
    table = page.read_text()
    assert "## toy" in table and all(row["title"] in table for row in ours.values())
    assert any(row["who"] == "FlowServe int8, speculating" for row in report["rows"])
