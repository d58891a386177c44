"""The kernel chosen per shape: measured in another process, kept, and a fixed order where that cannot be."""

from __future__ import annotations

import json
import logging
import os
from pathlib import Path

import pytest

from flowserve.device.cpu_torch import choice as choice_module
from flowserve.device.cpu_torch.choice import Choice, choose, fixed_choice
from flowserve.device.cpu_torch.matrices import KERNELS
from flowserve.device.cpu_torch.self_test import ROWS, best

LARGE = {(2048, 1024), (1024, 3072)}


@pytest.fixture
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("FLOWSERVE_CACHE", str(tmp_path))
    return tmp_path


def _only_file(cache: Path) -> Path:
    (path,) = (cache / "kernel-choice").iterdir()
    return path


def test_measured_once_and_without_threads_here(cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    threads = len(os.listdir("/proc/self/task"))
    chosen = choose("int8", LARGE, 1)
    assert len(os.listdir("/proc/self/task")) == threads
    assert chosen.keys() == LARGE and all(each.kernel in KERNELS["int8"] for each in chosen.values())
    monkeypatch.setattr(choice_module, "_measure", None)  # a second measurement would be a TypeError
    assert choose("int8", LARGE, 1) == chosen


def test_what_is_missing_is_measured_and_added(cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    asked = []

    def measure(kind: str, shapes: list[tuple[int, int]], threads: int) -> dict[tuple[int, int], Choice]:
        asked.append((kind, shapes, threads))
        return {shape: Choice("onednn", True) for shape in shapes}

    monkeypatch.setattr(choice_module, "_measure", measure)
    choose("int8", LARGE, 2)
    choose("int8", LARGE | {(4096, 4096)}, 2)
    choose("float32", LARGE, 2)
    assert choose("int8", LARGE, 2)[2048, 1024] == Choice("onednn", True), "another kind has not displaced it"
    choose("int8", LARGE, 1)
    assert asked == [
        ("int8", [(1024, 3072), (2048, 1024)], 2),
        ("int8", [(4096, 4096)], 2),
        ("float32", [(1024, 3072), (2048, 1024)], 2),
        ("int8", [(1024, 3072), (2048, 1024)], 1),
    ]


@pytest.mark.parametrize(
    "content",
    ["", "{", "[]", '{"int8": 3}', '{"int8": {"a": 1}}', '{"int8": {"2048x1024": ["gone", false], "1024x3072": 7}}'],
)
def test_a_damaged_file_is_measured_anew(cache: Path, monkeypatch: pytest.MonkeyPatch, content: str) -> None:
    found = {shape: Choice("fbgemm") for shape in LARGE}
    monkeypatch.setattr(choice_module, "_measure", lambda kind, shapes, threads: found)
    choose("int8", LARGE, 2)
    _only_file(cache).write_text(content)
    assert choose("int8", LARGE, 2) == found
    assert json.loads(_only_file(cache).read_text())["int8"]["2048x1024"] == ["fbgemm", False]


@pytest.mark.parametrize("executable", ["", "/nonexistent/python", "/bin/false", "/bin/echo"])
def test_where_nothing_can_be_measured(
    cache: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture, executable: str
) -> None:
    monkeypatch.setattr("sys.executable", executable)
    with caplog.at_level(logging.WARNING, "flowserve"):
        assert choose("int8", LARGE, 2) == {shape: fixed_choice("int8", shape) for shape in LARGE}
    assert "could not be measured" in caplog.text
    assert not (cache / "kernel-choice").exists(), "a guess is not kept"


def test_a_cache_that_cannot_be_written(
    cache: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    (cache / "kernel-choice").write_text("a file")
    found = {shape: Choice("plain") for shape in LARGE}
    monkeypatch.setattr(choice_module, "_measure", lambda kind, shapes, threads: found)
    with caplog.at_level(logging.WARNING, "flowserve"):
        assert choose("float32", LARGE, 2) == found
    assert "cannot be kept" in caplog.text


def test_small_models_are_not_measured(cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(choice_module, "_measure", None)
    assert choose("float32", {(64, 64)}, 1) == {(64, 64): Choice("plain")}
    assert choose("int4", {(50, 64), (64, 60)}, 1) == dict.fromkeys([(50, 64), (64, 60)], Choice("widened"))


def test_the_best_is_fast_for_every_number_of_rows() -> None:
    one, sixteen, many = ROWS
    steady, spiky = Choice("steady"), Choice("spiky")
    times = {steady: {one: 1.0, sixteen: 2.0, many: 10.0}, spiky: {one: 0.8, sixteen: 9.0, many: 40.0}}
    assert best(times) == steady
    assert best({**times, Choice("unfinished"): {one: 0.01}}) == steady
    times[spiky] = {one: 0.5, sixteen: 2.0, many: 11.0}
    assert best(times) == spiky
