"""`deepserve bench calls` on this machine, quickly: that it measures, not what."""

from __future__ import annotations

import json
import os
import sys
from pathlib import Path

import pytest

from deepserve._marked_processes import marked_processes
from deepserve.bench import calls, fresh_start, processes
from deepserve.bench.report import COLUMNS, cells, rows
from deepserve.bench.subjects import FRESH, STANDING, chosen, missing
from tests.integration.cli.conftest import Shell


@pytest.mark.slow
def test_a_quick_run_measures_every_work(shell: Shell) -> None:
    report = json.loads(shell.out("bench", "calls", "--quick", "--json", "--output", "report.json"))
    assert report == json.loads(shell.folder.joinpath("report.json").read_text())
    assert report["failed"] == {} and report["not_measured"] == []
    by_work: dict[str, list[str]] = {}
    for row in report["rows"]:
        by_work.setdefault(row["work"], []).append(row["who"])
        assert row["median"] > 0 and row["of_ours"] > 0 and row["of_limit"] > 0
        assert len(cells(row, None)) == len(COLUMNS)
    assert list(by_work) == ["warm", "map", "array in", "array out", "bytes in", "bytes out", "fresh"]
    for who in by_work.values():
        assert who[0].startswith("limit: ") and {"DeepServe", "ProcessPoolExecutor"} <= set(who)
    fresh = {row["who"]: row for row in report["rows"] if row["work"] == "fresh"}
    assert fresh["limit: a fork"]["processes"] == 2 and fresh["DeepServe, `up` running"]["processes"] == 1
    assert fresh["DeepServe"]["pss_mb"] > 1


def test_a_profile_names_the_processes_of_a_call(shell: Shell) -> None:
    found = json.loads(shell.out("bench", "calls", "--profile", "--quick", "--json"))
    run_us = {row["process"]: row["run_us"] for row in found["rows"] if not row["thread"]}
    assert min(run_us[process] for process in ("client", "controller", "pod")) > 0
    assert "controller" in shell.out("bench", "calls", "--profile", "--quick")


def test_a_quick_run_scales_and_reads_memory(shell: Shell) -> None:
    report = json.loads(shell.out("bench", "scale", "--quick", "--json", "--only", "plain"))
    assert report["failed"] == {}
    assert [(row["work"], row["who"]) for row in report["rows"]] == [
        ("plain 4", "limit: forks"),
        ("plain 4", "DeepServe"),
        ("plain 4", "ProcessPoolExecutor"),
    ]
    for row in report["rows"]:
        assert row["median"] > 0 and 0 < row["private_mb"] < row["worker_pss_mb"] * 2
        assert len(cells(row, None)) == len(COLUMNS)
    for words in (("--only", "plain,what"), ("--rounds", "0")):
        assert shell.run("bench", "scale", *words).returncode == 2


@pytest.mark.slow
def test_a_quick_run_starts_models(shell: Shell) -> None:
    pytest.importorskip("torch")
    report = json.loads(shell.out("bench", "models", "--quick", "--json"))
    assert report["failed"] == {}
    found = {(row["work"], row["who"]): row for row in report["rows"]}
    starts = {"executors 2", "executors 4", "second", "warm template", "no template", "cold file", "file"}
    assert starts | {"4 streams", "first token"} <= {work for work, _ in found}
    assert found["4 streams", "FlowServe's own server"]["of_ours"] > 0
    replayed = {who for work, who in found if work == "conv p99"}
    assert replayed == {"DeepServe", "one a tick"}
    assert found["conv pods", "DeepServe"]["median"] > 0 and 0 <= found["conv cold", "one a tick"]["median"] <= 1
    assert found["tenants p99", "DeepServe"]["of_limit"] > 0
    assert found["executors 4", "DeepServe"]["private_mb"] > 0
    assert found["file", "DeepServe"]["of_limit"] > 0 and found["warm template", "DeepServe"]["of_limit"] > 1
    assert shell.run("bench", "models", "--only", "what").returncode == 2


def test_wrong_usage(shell: Shell) -> None:
    for words in (("--only", "warm,what"), ("--rounds", "0")):
        done = shell.run("bench", "calls", *words)
        assert done.returncode == 2 and words[1].rpartition(",")[2] in done.stderr


def test_ratios_within_a_run() -> None:
    values = [("DeepServe", 4.0), ("limit: far", 1.0), ("limit: near", 2.0), ("Peer", 8.0), ("DeepServe", 6.0)]
    found = rows([{"work": "array in", "who": who, "unit": "GB/s", "value": value} for who, value in values])
    assert [row["who"] for row in found] == ["limit: far", "limit: near", "DeepServe", "Peer"]
    assert found[2] == {
        "work": "array in",
        "who": "DeepServe",
        "unit": "GB/s",
        "median": 5.0,
        "spread": [4.0, 6.0],
        "num_samples": 2,
        "title": "10 MB array as argument",
        "of_ours": 1.0,
        "of_limit": 2.5,
    }
    assert found[3]["of_ours"] == 1.6


def test_a_subject_that_fails_is_named_and_the_others_go_on(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "scripts").mkdir()
    (tmp_path / "fresh").mkdir()
    (tmp_path / "scripts" / "good.py").write_text(
        'print(\'[{"work": "warm", "who": "good", "unit": "s", "value": 1}]\')'
    )
    (tmp_path / "scripts" / "bad.py").write_text("raise SystemExit('it broke')")
    monkeypatch.setattr(calls, "HERE", tmp_path)
    subjects = tuple(calls.Subject(name, f"{name}.py") for name in ("bad", "good"))
    monkeypatch.setattr(calls, "STANDING", subjects)
    told: list[str] = []
    report = calls.measure(calls.Options(("warm",), rounds=3), told.append)
    assert report["failed"] == {"bad": "bad.py: it broke"}
    assert [row["num_samples"] for row in report["rows"]] == [3]
    assert [text.split()[-1] for text in told] == ["bad", "good", "good", "good"]


def test_a_fresh_script_without_a_result(tmp_path: Path) -> None:
    script = tmp_path / "silent.py"
    script.write_text("raise SystemExit('no result today')")
    with pytest.raises(fresh_start.SubjectFailed, match=r"silent\.py: no result today"):
        fresh_start.first_result(sys.executable, script, dict(os.environ))


def test_peers_are_those_whose_environment_was_made(tmp_path: Path) -> None:
    assert all(not subject.environment for subject in chosen(FRESH, None))
    (tmp_path / "ray" / "bin").mkdir(parents=True)
    (tmp_path / "ray" / "bin" / "python").touch()
    (tmp_path / "ray" / ".installed").touch()
    assert {subject.environment for subject in chosen(STANDING, tmp_path)} == {"", "ray"}
    assert missing(tmp_path) == ["pool", "dask"]


def test_marked_processes_and_descendants() -> None:
    assert os.getpid() in processes.descendants(os.getppid())
    assert marked_processes(processes.MARK, "nobody has this") == []
    assert processes.pss_mb(os.getpid()) > 1
