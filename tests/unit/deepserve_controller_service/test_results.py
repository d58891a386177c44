"""Kept results, output rings and log files stay within their bounds."""

from __future__ import annotations

import errno
import fcntl
import os
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from deepserve.protocol.messages import ItemFinished, Outcome, RequestFinished, Timings, Value
from deepserve_controller.service.bundles import Bundle, Bundles
from deepserve_controller.service.log_files import LogFiles
from deepserve_controller.service.logs import Ring
from deepserve_controller.service.results import DELIVERY_BYTES, RESULT_BYTES, Delivery, KeptResults
from deepserve_controller.service.segments import Segments


def no_timer(at_s: float, callback: object) -> None: ...


def finished(request_id: str, segment: str = "") -> RequestFinished:
    value = Value("msgpack", 10, segment=segment)
    return RequestFinished(request_id, Outcome("ok"), Timings(), value)


def test_the_oldest_results_go_first(tmp_path: Path) -> None:
    kept = KeptResults(Segments(str(tmp_path)), ttl_s=60, max_bytes=2 * RESULT_BYTES + 25, call_at=no_timer)
    for number in range(3):
        kept.put(f"rq-{number}", [], finished(f"rq-{number}"), b"x" * 10)
    assert [name in kept for name in ("rq-0", "rq-1", "rq-2")] == [False, True, True]
    assert kept.total_bytes == 2 * RESULT_BYTES + 20


def test_small_results_are_bounded_too(tmp_path: Path) -> None:
    kept = KeptResults(Segments(str(tmp_path)), ttl_s=60, max_bytes=100_000, call_at=no_timer)
    for number in range(1000):
        kept.put(f"rq-{number}", [], finished(f"rq-{number}"), b"")
    assert len(kept) <= 111 and "rq-999" in kept


def test_an_idle_controller_forgets_what_is_over(tmp_path: Path) -> None:
    asked: list[tuple[float, Callable[[], None]]] = []
    kept = KeptResults(Segments(str(tmp_path)), 0.5, 10_000, lambda at_s, callback: asked.append((at_s, callback)))
    for number in range(2):
        kept.put(f"rq-{number}", [], finished(f"rq-{number}"), b"x")
    assert len(asked) == 1  # one timer, for the oldest
    while asked:
        at_s, callback = asked.pop()
        time.sleep(max(0.0, at_s - time.monotonic()))
        callback()
    assert len(kept) == 0


def test_results_end_with_their_time(tmp_path: Path) -> None:
    kept = KeptResults(Segments(str(tmp_path)), ttl_s=0, max_bytes=100, call_at=no_timer)
    kept.put("rq-1", [], finished("rq-1"), b"x")
    assert kept.get("rq-1") is None and kept.total_bytes == 0


def test_a_forgotten_result_takes_its_segments_along(tmp_path: Path) -> None:
    for name in ("v-result", "v-item"):
        (tmp_path / name).touch()
    kept = KeptResults(Segments(str(tmp_path)), ttl_s=60, max_bytes=10_000, call_at=no_timer)
    item = ItemFinished("rq-1", 0, Outcome("ok"), Timings(), Value("msgpack", 5, segment="v-item"))
    kept.put("rq-1", [Delivery(0, item, b"")], finished("rq-1", "v-result"), b"")
    assert kept.total_bytes == RESULT_BYTES + DELIVERY_BYTES + 15
    kept.forget("rq-1")
    kept.forget("rq-1")
    assert kept.total_bytes == 0 and list(tmp_path.iterdir()) == []


def test_segments_outside_the_folder_are_left_alone(tmp_path: Path) -> None:
    inside = tmp_path / "in"
    inside.mkdir()
    (tmp_path / "precious").touch()
    segments = Segments(str(inside))
    for name in ("../precious", "", ".", "..", "/etc/hostname", ".owner", "a\0b", str(tmp_path / "precious")):
        segments.remove(name)
        assert segments.double(Value(segment=name)).segment == name
        assert segments.take(Value(segment=name)) == b""
    assert (tmp_path / "precious").exists()


def test_a_doubled_segment_survives_its_first_reader(tmp_path: Path) -> None:
    (tmp_path / "v-1").write_bytes(b"value")
    segments = Segments(str(tmp_path))
    double = segments.double(Value("msgpack", 5, segment="v-1"))
    segments.remove("v-1")
    assert segments.take(double) == b"value" and list(tmp_path.iterdir()) == []


def test_bundles_used_lately_stay() -> None:
    bundles = Bundles(max_bytes=25)
    bundles.put("a", Bundle("files", b"x" * 10))
    bundles.put("b", Bundle("files", b"x" * 10))
    assert bundles.get("a") is not None
    bundles.put("c", Bundle("files", b"x" * 10))
    assert bundles.get("b") is None and bundles.get("a") is not None and bundles.total_bytes == 20


def test_a_ring_keeps_the_last_bytes() -> None:
    ring = Ring(max_bytes=10)
    for line in (b"one\n", b"two\n", b"three\n"):
        ring.append(line)
    assert ring.tail(0) == b"two\nthree\n"
    assert ring.tail(1) == b"three\n"
    ring.append(b"x" * 100)
    assert ring.tail(0) == b"x" * 10


def test_log_files_are_bounded_and_stay_in_their_folder(tmp_path: Path) -> None:
    files = LogFiles(str(tmp_path / "logs"), max_bytes=100)
    for _ in range(5):
        files.write("app/../../evil", b"x" * 60)
    files.write("app/f", b"hello\n")
    files.close()
    assert files.tail("app/f", 3) == b"lo\n"
    assert files.tail("app/none", 10) == b""
    found = sorted(str(path.relative_to(tmp_path)) for path in tmp_path.rglob("*") if path.is_file())
    assert found == ["logs/app/.._.._evil.log", "logs/app/.._.._evil.log.1", "logs/app/f.log"]
    assert all(path.stat().st_size <= 160 for path in tmp_path.rglob("*.log*"))


def test_what_a_process_wrote_and_told_nobody_of_goes_with_it(tmp_path: Path) -> None:
    segments = Segments(str(tmp_path))
    for name in ("v-7-told", "v-7-untold", "r-7-told", "r-7-untold", ".pool-7-a", "v-77-b", ".pool-77-b", "v-7-read"):
        (tmp_path / name).write_bytes(b"x")
    for name in ("v-7-told", "r-7-told"):
        segments.announced("link-1", Value("pickle", 1, segment=name))
    segments.delivered("link-1", "v-7-read")
    segments.link_opened(7)
    segments.link_opened(7)
    segments.link_closed("link-0", 7)
    assert (tmp_path / "v-7-untold").exists(), "the process has another link"
    segments.link_closed("link-1", 7)
    assert sorted(file.name for file in tmp_path.iterdir()) == [".pool-77-b", "r-7-told", "v-7-told", "v-77-b"]
    segments.link_closed("link-2", 0)


def test_files_of_an_ended_process_take_no_memory_though_mapped_unless_they_are_read(tmp_path: Path) -> None:
    segments = Segments(str(tmp_path))
    files = {}
    for name in (".pool-7-idle", ".pool-7-read", ".pool-7-waiting"):
        (tmp_path / name).write_bytes(bytes(5000))
        files[name] = open(tmp_path / name, "rb")
    os.link(tmp_path / ".pool-7-waiting", tmp_path / "v-7-told")
    fcntl.flock(files[".pool-7-read"], fcntl.LOCK_SH)
    segments.announced("link-1", Value("pickle", 5000, segment="v-7-told"))
    segments.link_opened(7)
    segments.link_closed("link-1", 7)
    assert [file.name for file in tmp_path.iterdir()] == ["v-7-told"]
    assert [os.fstat(file.fileno()).st_size for file in files.values()] == [0, 5000, 5000]
    for file in files.values():
        file.close()


def test_files_go_though_no_descriptor_is_left(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def none_left(*_: object, **__: object) -> int:
        raise OSError(errno.EMFILE, "Too many open files")

    segments = Segments(str(tmp_path))
    (tmp_path / ".pool-7-a").write_bytes(b"x")
    segments.link_opened(7)
    with monkeypatch.context() as full:
        full.setattr(os, "open", none_left)
        segments.link_closed("link-1", 7)
    assert list(tmp_path.iterdir()) == []


def test_of_many_deliveries_those_that_were_not_read_are_remembered(tmp_path: Path) -> None:
    segments = Segments(str(tmp_path))
    for number in range(3000):
        name = f"c-{number}"
        if number % 10 == 0:
            (tmp_path / name).touch()
        segments.delivered("link-1", name)
    assert sum(map(len, segments._delivered.values())) < 1000
    segments.link_closed("link-1", 0)
    assert list(tmp_path.iterdir()) == []


def test_a_segment_that_is_longer_than_its_value(tmp_path: Path) -> None:
    (tmp_path / "v-1").write_bytes(b"value and what was there before")
    assert Segments(str(tmp_path)).take(Value("msgpack", 5, segment="v-1")) == b"value"
