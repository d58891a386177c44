from __future__ import annotations

import os
import sys
import threading
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from deepserve import _values, settings
from deepserve._pickling import NOTHING, PYTHON
from deepserve._segments import segment_path
from deepserve._values import decode_value, encode_value
from deepserve.errors import (
    ProtocolError,
    PythonVersionMismatch,
    SerializationError,
    UnpicklableArgument,
    UnpicklableResult,
    ValueTooLarge,
)
from deepserve.protocol.messages import Value


def names_in(folder: Path) -> list[str]:
    """Of values; the files that this process keeps for its next ones begin with a dot."""
    return [name for name in os.listdir(folder) if not name.startswith(".")]


PLAIN = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text() | st.binary(),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(), inner, max_size=4),
    max_leaves=12,
)


@given(PLAIN)
def test_plain_values_come_back(value: Any) -> None:
    described, data = encode_value(value)
    assert described.size_bytes == len(data)
    assert described.python == ""
    assert decode_value(described, data) == value


@pytest.mark.parametrize("size", [1, 100, 40_000, 100_000])
def test_arrays_come_back_writable_and_aligned(size: int, tmp_path: Path) -> None:
    described, data = encode_value([np.arange(size), np.ones(3)], segments=str(tmp_path))
    numbers, ones = decode_value(described, data, segments=str(tmp_path), unlink=True)
    assert bool(described.segment) == (size * 8 > _values.INLINE_BYTES)
    assert (numbers == np.arange(size)).all() and (ones == 1).all()
    numbers[0] = 7
    if described.segment:
        assert numbers.ctypes.data % 64 == 0
    assert names_in(tmp_path) == []


def test_two_readers_of_one_segment_do_not_see_each_other(tmp_path: Path) -> None:
    described, data = encode_value(np.zeros(100_000), segments=str(tmp_path))
    first = decode_value(described, data, segments=str(tmp_path))
    second = decode_value(described, data, segments=str(tmp_path))
    first[:] = 1
    assert not second.any()
    assert (tmp_path / described.segment).stat().st_mode & 0o777 == 0o600


def test_the_folder_of_segments_is_asked_for_large_values_only(tmp_path: Path) -> None:
    asked = []

    def folder() -> str:
        asked.append(1)
        return str(tmp_path)

    encode_value("small", segments=folder)
    assert asked == []
    encode_value(bytes(300 << 10), segments=folder)
    assert asked == [1]


@pytest.mark.parametrize("name", ["", ".", "..", "a/b", "/etc/passwd", "../x", "a\0b", "x" * 200])
def test_a_segment_is_a_plain_file_name(name: str) -> None:
    with pytest.raises(ProtocolError):
        segment_path("/dev/shm", name)


def test_a_segment_of_another_size_or_none_is_an_error(tmp_path: Path) -> None:
    (tmp_path / "v").write_bytes(b"short")
    for size_bytes, name in ((400, "v"), (5, "gone")):
        with pytest.raises(SerializationError):
            decode_value(Value("pickle", size_bytes, "", name), b"", segments=str(tmp_path))


def test_code_travels_by_value_and_says_its_python() -> None:
    offset = 3
    described, data = encode_value(lambda x: x + offset)
    assert described.python == PYTHON
    assert decode_value(described, data)(4) == 7


def test_code_of_another_python_is_refused_before_a_byte_is_loaded() -> None:
    with pytest.raises(PythonVersionMismatch, match=r"3\.8"):
        decode_value(Value("pickle", 3, "3.8"), b"not even a pickle")


class Point:
    def __init__(self, x: int) -> None:
        self.x = x

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Point) and other.x == self.x


def test_own_modules_travel_by_value_where_the_reader_lacks_them() -> None:
    here, data = encode_value(Point(3))
    assert here.python == ""
    away, away_data = encode_value(Point(3), reach=NOTHING)
    assert away.python == PYTHON and len(away_data) > len(data)
    assert decode_value(away, away_data) == Point(3)


def test_a_main_without_a_file_travels_by_value(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Point, "__module__", "__main__")
    monkeypatch.setattr(sys.modules["__main__"], "Point", Point, raising=False)
    assert encode_value(Point(1))[0].python == ""
    monkeypatch.delattr(sys.modules["__main__"], "__file__", raising=False)
    assert encode_value(Point(1))[0].python == PYTHON


lock = threading.Lock()


def captures_a_global() -> Any:
    return lock


def captures_in_a_closure() -> Any:
    guard = threading.Lock()

    def inner() -> Any:
        return guard

    return inner


class Holder:
    def __init__(self) -> None:
        self.fine = 1
        self.items = (item for item in ())


@pytest.mark.parametrize(
    ("value", "named"),
    [
        (captures_in_a_closure(), "`guard` (threading.Lock), captured by `captures_in_a_closure.<locals>.inner` at"),
        (lambda: lock, "`lock` (threading.Lock), captured by `<lambda>` at test_values.py:"),
        ({"a": [1, lock]}, "item 1 (threading.Lock) of item 'a' (list)"),
        ([Holder()], "attribute `items` (generator)"),
    ],
)
def test_the_culprit_is_named(value: Any, named: str) -> None:
    with pytest.raises(UnpicklableArgument) as caught:
        encode_value(value)
    assert named in str(caught.value)
    with pytest.raises(UnpicklableResult):
        encode_value(value, error=UnpicklableResult)


def test_a_value_above_the_limit_is_refused(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(settings, "_settings", settings.Settings(max_value_bytes=1 << 20))
    with pytest.raises(ValueTooLarge, match=r"2,0\d\d,\d\d\d bytes; the limit is 1,048,576"):
        encode_value(bytes(2_000_000 + 9000), segments=str(tmp_path))
    assert names_in(tmp_path) == []


def test_what_cannot_be_loaded_is_a_serialization_error() -> None:
    with pytest.raises(SerializationError):
        decode_value(Value("pickle", 12), bytes(12))
    with pytest.raises(SerializationError):
        decode_value(Value("exception", 3), b"abc")
    assert decode_value(Value(), b"") is None
    assert decode_value(Value("msgpack", 1), b"\x05") == 5
