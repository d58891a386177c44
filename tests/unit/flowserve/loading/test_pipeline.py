"""The chunked load: all bytes at their places, whatever is slow or breaks, and no thread left."""

from __future__ import annotations

import os
import signal
import threading
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from flowserve.errors import LoadingError
from flowserve.loading.chunks import Prefix, chunks_of
from flowserve.loading.direct_file import DirectFile
from flowserve.loading.host_copy import HostCopy, bring, copied
from flowserve.loading.mapped_file import MappedFile
from flowserve.loading.pipeline import ChunkedLoad, Destination, LoadReport
from flowserve.loading.residency import resident_share
from flowserve.loading.throwaway import run_apart
from tests.waiting import TIMEOUT_S, wait_for

PAGE = 4096
SIZE = 100 * PAGE + 77


@pytest.fixture
def path(tmp_path: Path) -> Path:
    found = tmp_path / "weights"
    found.write_bytes(os.urandom(SIZE))
    return found


class Device:
    """A tier that no read can fill: everything passes through the host pool. gate: copies wait for it."""

    def __init__(self, size: int) -> None:
        self.bytes = bytearray(size)
        self.gate = threading.Event()
        self.gate.set()
        self.breaks = False

    def room(self, offset: int, size: int) -> None:
        return None

    def put(self, offset: int, data: memoryview) -> None:
        self.gate.wait(TIMEOUT_S)
        if self.breaks:
            raise OSError("the device is gone")
        self.bytes[offset : offset + len(data)] = data


def load_file(path: Path, destination: Destination) -> LoadReport:
    file = DirectFile(path)
    try:
        return ChunkedLoad(file, destination).wait()
    finally:
        file.close()


@given(st.integers(0, 5000), st.integers(1, 700), st.randoms(use_true_random=False))
def test_the_beginning_is_there_when_all_chunks_before_are(size: int, chunk_bytes: int, random: object) -> None:
    chunks = chunks_of(size, chunk_bytes)
    assert sum(chunk.size for chunk in chunks) == size
    order = list(chunks)
    random.shuffle(order)  # type: ignore[attr-defined]
    prefix, there = Prefix(), set()
    for chunk in order:
        prefix.note(chunk)
        there.add(chunk.number)
        missing = [other for other in chunks if other.number not in there]
        assert prefix.end == (missing[0].offset if missing else size)


@pytest.mark.parametrize("is_direct", [True, False])
@pytest.mark.parametrize("readers", [1, 5])
def test_through_the_pool_and_straight(path: Path, is_direct: bool, readers: int) -> None:
    others = set(threading.enumerate())
    for destination in (Device(SIZE), HostCopy(SIZE)):
        file = DirectFile(path, is_direct)
        load = ChunkedLoad(file, destination, num_readers=readers, chunk_bytes=3 * PAGE)
        report = load.wait()
        file.close()
        there = destination.bytes if isinstance(destination, Device) else os.pread(destination.descriptor, SIZE, 0)
        assert bytes(there) == path.read_bytes() and report.size_bytes == SIZE
    assert set(threading.enumerate()) <= others


def test_a_copy_outlives_the_file(path: Path) -> None:
    whole = path.read_bytes()
    memory = copied(path)
    path.unlink()
    assert os.pread(memory, SIZE + 1, 0) == whole
    os.close(memory)


def test_into_the_page_cache(path: Path) -> None:
    os.sync()
    with path.open("rb") as file:
        os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)
    mapped = MappedFile(path)
    report = ChunkedLoad(mapped, mapped, chunk_bytes=3 * PAGE).wait()
    mapped.close()
    assert resident_share(path) == 1.0 and report == LoadReport(SIZE, report.seconds, False)
    with pytest.raises(LoadingError, match="No such file"):
        MappedFile(path.with_name("none"))


@pytest.mark.parametrize("is_direct", [True, False])
def test_a_large_cold_file_is_brought_into_memory(path: Path, is_direct: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("flowserve.loading.host_copy._SMALL_BYTES", 1)
    monkeypatch.setattr("flowserve.loading.host_copy.resident_share", lambda path: 0.1)
    file = os.open(path, os.O_RDONLY)
    found, read_s = bring(path, file, is_direct)
    assert (found == file) != is_direct and read_s > 0.0
    assert os.pread(found, SIZE + 1, 0) == path.read_bytes()
    monkeypatch.setattr("flowserve.loading.host_copy._available_bytes", lambda: SIZE)
    assert bring(path, file, is_direct) == (file, 0.0)
    for descriptor in {file, found}:
        os.close(descriptor)


def test_who_waits_for_the_beginning_goes_on_before_the_end_is_there(path: Path) -> None:
    device = Device(SIZE)
    file = DirectFile(path)
    device.gate.clear()
    load = ChunkedLoad(file, device, chunk_bytes=PAGE)
    has_come = threading.Event()
    thread = threading.Thread(target=lambda: (load.ready_through(2 * PAGE), has_come.set()))
    thread.start()
    assert not has_come.is_set()
    device.gate.set()
    thread.join(TIMEOUT_S)
    load.wait()
    assert has_come.is_set() and bytes(device.bytes) == path.read_bytes()
    file.close()


def test_a_tier_that_breaks_ends_the_load_with_its_reason(path: Path) -> None:
    others = set(threading.enumerate())
    device = Device(SIZE)
    device.breaks = True
    with pytest.raises(LoadingError, match="weights: the device is gone"):
        load_file(path, device)
    assert set(threading.enumerate()) <= others


def test_a_file_that_is_cut_meanwhile(path: Path) -> None:
    file = DirectFile(path)
    os.truncate(path, 7 * PAGE)
    with pytest.raises(LoadingError, match="was cut while it was read"):
        ChunkedLoad(file, HostCopy(SIZE), chunk_bytes=PAGE).wait()
    file.close()
    with pytest.raises(LoadingError, match="No such file"):
        load_file(path.with_name("none"), HostCopy(SIZE))


def test_an_abandoned_load_leaves_no_thread(path: Path) -> None:
    device = Device(SIZE)
    device.gate.clear()
    file = DirectFile(path)
    load = ChunkedLoad(file, device, chunk_bytes=PAGE)
    opens = threading.Thread(target=lambda: (wait_for(lambda: load._is_closed), device.gate.set()))
    opens.start()
    load.close()
    opens.join()
    with pytest.raises(LoadingError, match="given up"):
        load.ready_through(SIZE)
    file.close()


def test_an_empty_file(tmp_path: Path) -> None:
    (tmp_path / "none").write_bytes(b"")
    assert load_file(tmp_path / "none", Device(0)).size_bytes == 0


def test_what_is_written_just_now_is_in_memory(path: Path) -> None:
    assert resident_share(path) == 1.0
    assert resident_share(path.with_name("none")) == 0.0


def test_work_apart() -> None:
    assert int(run_apart("telling", lambda: str(os.getpid())) or 0) not in (0, os.getpid())
    assert len(run_apart("telling much", lambda: "x" * 1_000_000) or "") == 1_000_000

    def fail() -> str:
        raise ValueError

    def die() -> str:
        os.kill(os.getpid(), signal.SIGKILL)
        return ""

    assert run_apart("failing", fail) is None
    with pytest.raises(LoadingError, match="dying: the process that did it was killed by SIGKILL"):
        run_apart("dying", die)
