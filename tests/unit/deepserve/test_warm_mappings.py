"""Mappings that are kept to copy out of: never another value's bytes, bounded, no memory once the writer's is gone."""

from __future__ import annotations

import os
import signal
import threading
from pathlib import Path
from typing import Any

import pytest

from deepserve import _arena, _warm_mappings
from deepserve._segments import segment_content
from deepserve._values import decode_value
from deepserve._warm_mappings import WarmMappings
from deepserve.errors import SerializationError
from deepserve.protocol.messages import Value
from tests.unit.deepserve.segment_values import encode, take


@pytest.fixture(autouse=True)
def warm(monkeypatch: pytest.MonkeyPatch) -> WarmMappings:
    found = WarmMappings()
    monkeypatch.setattr(_warm_mappings, "warm_mappings", found)
    return found


def pool(folder: Path) -> list[Path]:
    return [file for file in folder.iterdir() if file.name.startswith(".")]


def let_all_go(folder: Path) -> None:
    """As the writer does at its end."""
    del _arena._arenas[str(folder)]
    assert pool(folder) == []


def text(number: int, size: int = 300_000) -> bytes:
    return bytes([number % 256]) * size


def test_values_in_one_file_share_a_mapping_and_do_not_mix(folder: Path, warm: WarmMappings) -> None:
    kept = [take(encode(text(number, 300_000 - 1000 * number), folder), folder) for number in range(50)]
    assert kept == [text(number, 300_000 - 1000 * number) for number in range(50)]
    [file] = pool(folder)  # free again at once: nothing that was made of it has its pages
    assert warm.num_bytes == file.stat().st_size


def test_what_is_copied_out_of_is_not_written_meanwhile(folder: Path) -> None:
    value = encode(text(1), folder)
    with segment_content(str(folder), value.segment, value.size_bytes, unlink=True, only_copied=b"\x80") as content:
        before = bytes(content)
        encode(text(2), folder)
        assert bytes(content) == before and len(pool(folder)) == 2
    with pytest.raises(ValueError, match="released"):
        bytes(content)


def test_a_child_forked_while_it_is_read_does_not_keep_the_file(folder: Path) -> None:
    value = encode(text(1), folder)
    with segment_content(str(folder), value.segment, value.size_bytes, unlink=True, only_copied=b"\x80"):
        pid = os.fork()
        if pid == 0:
            signal.pause()
            os._exit(0)
    try:
        for number in range(5):
            assert take(encode(text(number), folder), folder) == text(number)
        assert len(pool(folder)) == 1
    finally:
        os.kill(pid, signal.SIGKILL)
        os.waitpid(pid, 0)


def test_a_forked_child_has_mappings_of_its_own(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    take(encode(text(1), folder), folder)
    with _warm_mappings.warm_mappings._lock:  # as if another thread were in there
        pid = os.fork()
        if pid == 0:
            signal.alarm(20)
            os._exit(0 if take(encode(text(2), folder), folder) == text(2) else 1)
    assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 0


def test_a_value_that_cannot_be_loaded_lets_its_file_go(folder: Path) -> None:
    value = encode([text(1), Unloadable()], folder)
    for _ in range(2):
        with pytest.raises(SerializationError, match="not here"):
            decode_value(value, b"", segments=str(folder))
    os.unlink(folder / value.segment)
    assert take(encode(text(2), folder), folder) == text(2)
    assert len(pool(folder)) == 1


class Unloadable:
    def __reduce__(self) -> Any:
        return _refuse, ()


def _refuse() -> None:
    raise LookupError("not here")


def test_two_names_of_one_file_are_read_side_by_side(folder: Path) -> None:
    value = encode(text(3), folder)
    os.link(folder / value.segment, folder / "double")
    again = Value("pickle", value.size_bytes, segment="double")
    with segment_content(str(folder), value.segment, value.size_bytes, unlink=True, only_copied=b"\x80") as content:
        assert take(again, folder) == text(3)
        encode(text(4), folder)
        assert decode_value(Value("pickle", value.size_bytes), bytes(content)) == text(3)


def test_threads_that_copy_side_by_side(folder: Path) -> None:
    wrong: list[int] = []

    def work(start: int) -> None:
        for number in range(start, start + 100):
            if take(encode(text(number, 200_000 + number), folder), folder) != text(number, 200_000 + number):
                wrong.append(number)

    threads = [threading.Thread(target=work, args=(1000 * number,)) for number in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert wrong == []


def test_the_mappings_kept_are_bounded(folder: Path, warm: WarmMappings, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(_warm_mappings, "KEPT_BYTES", 1 << 20)
    monkeypatch.setattr(_arena, "mapped", {})
    waiting = [encode(text(number), folder) for number in range(12)]
    waiting.append(encode(text(12, 2 << 20), folder))
    assert [len(take(value, folder)) for value in waiting] == 12 * [300_000] + [2 << 20]
    assert 0 < warm.num_bytes <= 1 << 20
    monkeypatch.setattr(_warm_mappings, "KEPT_FILES", 1)
    take(encode(text(1), folder), folder)
    assert len(warm._kept) == 1
    [touched_bytes] = [size for label, size in _arena.mapped.items() if ":" in label]
    assert 300_000 < touched_bytes <= warm.num_bytes


def test_a_writers_file_that_goes_takes_no_memory(folder: Path, warm: WarmMappings) -> None:
    take(encode(text(1), folder), folder)
    fd = os.open(pool(folder)[0], os.O_RDONLY)
    let_all_go(folder)
    assert os.fstat(fd).st_blocks == 0
    os.close(fd)
    assert take(encode(text(2), folder), folder) == text(2)
    assert len(warm._kept) == 1  # the other one was found to be gone


def test_a_file_that_goes_while_it_is_read_or_waits_keeps_its_content(folder: Path, warm: WarmMappings) -> None:
    read, waiting = encode(text(1), folder), encode(text(2), folder)
    with segment_content(str(folder), read.segment, read.size_bytes, unlink=True, only_copied=b"\x80") as content:
        let_all_go(folder)
        assert decode_value(Value("pickle", read.size_bytes), bytes(content)) == text(1)
    assert take(waiting, folder) == text(2)
    assert len(warm._kept) == 1  # of the second no name is left: it will hold no other value


def test_a_user_who_closes_descriptors_of_others(folder: Path) -> None:
    first, *waiting = [encode(text(number), folder) for number in range(3)]
    before = set(os.listdir("/proc/self/fd"))
    take(first, folder)
    with open(os.devnull) as null:
        for fd in map(int, set(os.listdir("/proc/self/fd")) - before - {str(null.fileno())}):
            if os.path.exists(f"/proc/self/fd/{fd}"):  # not the one of the list itself
                os.dup2(null.fileno(), fd)
    assert [take(value, folder) for value in waiting] == [text(1), text(2)]
