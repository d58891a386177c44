"""The writer's files are used again, and never under somebody who still reads them."""

from __future__ import annotations

import errno
import os
import signal
import threading
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from deepserve import _arena, _pickling
from deepserve._arena import Arena, arena_of, make_room
from deepserve._segments import _Mapping, map_segment
from deepserve._values import decode_value, encode_value
from deepserve.errors import SerializationError, ValueTooLarge
from deepserve.protocol.messages import Value
from tests.unit.deepserve.segment_values import encode, take


def pool(folder: Path) -> list[int]:
    return sorted(file.stat().st_ino for file in folder.iterdir() if file.name.startswith("."))


def names(folder: Path) -> list[str]:
    return [file.name for file in folder.iterdir() if not file.name.startswith(".")]


def array(number: int, size: int = 100_000) -> np.ndarray[Any, Any]:
    return np.full(size, float(number))


def test_a_file_is_used_again_once_its_value_is_gone(folder: Path) -> None:
    for number in range(50):
        got = take(encode(array(number), folder), folder)
        assert (got == number).all()
        got[0] = -1  # the reader's own copy of the page
        del got
    assert len(pool(folder)) == 1 and names(folder) == []


def test_values_of_many_sizes_share_files_and_do_not_mix(folder: Path) -> None:
    for number, size in enumerate((100_000, 40_000, 99_999, 60_000, 33_000)):
        assert (take(encode(array(number, size), folder), folder) == array(number, size)).all()
    assert len(pool(folder)) == 1


def test_what_is_held_stays_as_it_was(folder: Path) -> None:
    held = [take(encode(array(number), folder), folder) for number in (1, 2, 3)]
    view = held[1][10:20]
    del held[1]
    for number in range(2000):
        assert take(encode(array(number, 40_000), folder), folder)[-1] == number
    assert (held[0] == 1).all() and (held[1] == 3).all() and (view == 2).all()


def test_what_nobody_has_read_yet_stays_as_it_was(folder: Path) -> None:
    waiting = [encode(array(number), folder) for number in range(5)]
    double = folder / "double"
    os.link(folder / waiting[0].segment, double)
    take(waiting[0], folder)
    for _ in range(100):
        take(encode(array(-1), folder), folder)
    assert all((take(value, folder) == number).all() for number, value in enumerate(waiting) if number)
    assert (take(Value("pickle", waiting[0].size_bytes, segment="double"), folder) == 0).all()


def test_a_forked_child_goes_on_reading_what_its_parent_let_go(folder: Path) -> None:
    got = take(encode(array(7), folder), folder)
    [first] = pool(folder)
    to_child, to_parent = os.pipe(), os.pipe()
    pid = os.fork()
    if pid == 0:
        os.closerange(3, min(to_child[0], to_parent[1]))  # as a daemon does: the mapping holds the file all the same
        os.read(to_child[0], 1)
        os.write(to_parent[1], b"y" if (got == 7).all() else b"n")
        signal.pause()
    del got
    for number in range(20):
        take(encode(array(number), folder), folder)
    assert len(pool(folder)) == 2
    os.write(to_child[1], b"x")
    assert os.read(to_parent[0], 1) == b"y"
    os.kill(pid, signal.SIGKILL)
    os.waitpid(pid, 0)
    held = [take(encode(array(number), folder), folder) for number in (1, 2)]
    assert len(pool(folder)) == 2 and first in pool(folder)  # free again
    assert held[0][0] == 1 and held[1][0] == 2
    for fd in (*to_child, *to_parent):
        os.close(fd)


def test_a_forked_child_writes_files_of_its_own(folder: Path) -> None:
    encode(array(1), folder)
    [parents] = pool(folder)
    pid = os.fork()
    if pid == 0:
        value = encode(array(2), folder)
        os._exit(0 if (folder / value.segment).stat().st_ino != parents else 1)
    assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 0
    assert parents in pool(folder)


def test_a_reader_that_comes_too_late_never_sees_another_value(folder: Path) -> None:
    value = encode(array(1), folder)
    late = os.open(folder / value.segment, os.O_RDONLY)
    os.unlink(folder / value.segment)
    encode(array(2), folder)
    assert len(pool(folder)) == 1  # the file is in use again
    with pytest.raises(SerializationError, match="is gone"):
        take(value, folder)
    os.close(late)


def test_a_reader_meets_the_writers_lock(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """It has opened the file when the name goes, and asks for its lock while the next value is written."""
    value = encode(array(1), folder)
    real_open = os.open

    def open_and_dawdle(path: Any, *rest: Any, **more: Any) -> int:
        fd = real_open(path, *rest, **more)
        if str(path).endswith(value.segment):
            os.unlink(path)
            assert arena_of(str(folder))._take(value.size_bytes) is not None
        return fd

    monkeypatch.setattr(os, "open", open_and_dawdle)
    with pytest.raises(SerializationError, match="is gone"):
        map_segment(str(folder), value.segment, value.size_bytes, unlink=False)


def test_many_held_values_leave_descriptors_for_others(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(_Mapping, "_max_living", 100)
    num_open = len(os.listdir("/proc/self/fd"))
    held = [take(encode(array(number, 20_000), folder), folder) for number in range(300)]
    assert len(os.listdir("/proc/self/fd")) - num_open < 100 + 80
    held[0][0] = held[-1][0] = -1  # mapped, and copied
    assert all(got[1] == number for number, got in enumerate(held))
    held.clear()
    assert len(os.listdir("/proc/self/fd")) - num_open < 80


def test_threads_write_and_read_side_by_side(folder: Path) -> None:
    wrong: list[int] = []

    def work(start: int) -> None:
        held: list[tuple[int, Any]] = []
        for number in range(start, start + 100):
            held.append((number, take(encode(array(number, 40_000), folder), folder)))
            if len(held) > 4:
                held.pop(0)
            wrong.extend(n for n, got in held if not (got == n).all())

    threads = [threading.Thread(target=work, args=(1000 * number,)) for number in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert wrong == [] and names(folder) == []


def test_the_files_kept_are_bounded(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(_arena, "POOL_BYTES", 4 << 20)
    arena = Arena(str(folder))
    written = [arena.write([bytes(1 << 20)], 1 << 20, "v") for _ in range(10)]
    large = arena.write([bytes(3 << 20)], 3 << 20, "v")
    assert arena.num_bytes == 4 << 20 == sum(file.stat().st_size for file in folder.glob(".pool-*"))
    for name in (*written, large):
        assert not any(map_segment(str(folder), name, 1 << 20, unlink=True))
    assert names(folder) == [] and len(pool(folder)) == 4


def test_a_writers_idle_files_make_room_for_others(folder: Path) -> None:
    held = take(encode(array(1), folder), folder)
    waiting = encode(array(2), folder)
    take(encode(array(3), folder), folder)
    assert len(pool(folder)) == 3
    assert make_room(str(folder)) == 1
    assert (take(encode(array(4), folder), folder) == 4).all()  # its writer has noticed
    assert (held == 1).all() and (take(waiting, folder) == 2).all()


def test_a_value_whose_writer_goes_while_room_is_made_is_not_taken_for_idle(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    value = encode(array(1), folder)
    real_open = os.open

    def open_and_lose_the_name(path: Any, *rest: Any) -> int:
        fd = real_open(path, *rest)
        os.unlink(path)
        return fd

    with monkeypatch.context() as meanwhile:
        meanwhile.setattr(os, "open", open_and_lose_the_name)
        assert make_room(str(folder)) == 0
    assert (take(value, folder) == 1).all()


def test_a_name_that_goes_while_the_file_is_written(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    real_link = os.link

    def link_after_removal(source: str, target: Path) -> None:
        os.unlink(source)
        real_link(source, target)

    monkeypatch.setattr(os, "link", link_after_removal)
    assert (take(encode(array(5), folder), folder) == 5).all()
    assert list(folder.iterdir()) == []


@pytest.mark.parametrize("size", [100_000, 20_000_000])
def test_full_shared_memory_is_an_error_with_sizes(folder: Path, monkeypatch: pytest.MonkeyPatch, size: int) -> None:
    def no_room(fd: int, offset: int, size_bytes: int) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    with monkeypatch.context() as full:
        full.setattr(os, "posix_fallocate", no_room)
        with pytest.raises(ValueTooLarge, match=r"the value has [\d,]+ bytes; of the [\d,]+ bytes of shared memory"):
            encode(array(1, size).view(np.uint8)[: 8 * size - 200], folder)
    assert list(folder.iterdir()) == []
    assert (take(encode(array(1), folder), folder) == 1).all()


@pytest.mark.parametrize("make", [bytes, bytearray, lambda size: "é" * (size // 2)])
@pytest.mark.parametrize("size", [10, 100_000, 3_000_000])
def test_bytes_and_text_come_back_as_they_are_at_any_depth(make: Any, size: int, folder: Path) -> None:
    for obj in (make(size), ((make(size), 1), {"key": [make(size)]})):
        value, data = encode_value(obj, segments=str(folder), is_large=size > 10)
        back = decode_value(value, data, segments=str(folder), unlink=True)
        assert back == obj and type(back) is type(obj)
    assert names(folder) == []


def test_large_bytes_are_not_copied_to_be_pickled() -> None:
    data = bytes(100_000)
    for obj in (data, [1, {"a": data}]):
        assert any(piece is data for piece in _pickling.dump(obj, is_large=True).data)
    _pickling.dump(data)
    assert any(piece is data for piece in _pickling.dump([data]).data)  # learnt from the last one
