"""What every subject of `deepserve bench calls` does, in its own process and with its own Python.

A subject is a script `on_<name>.py` beside this file. It needs nothing but the standard library, numpy for the work on
values, and the system that it measures; it prints one line of JSON: a list of samples.
"""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Callable, Sequence
from statistics import median
from typing import Any

VALUE_BYTES = 10_000_000
_ABSENT = b"\xff"
"""In none of the values."""


class Verbs:
    """One way of calling a system. What it cannot do is None.

    call(i) -> i, waited for. map(inputs) -> outputs, in order. take_array(array), take_bytes(data) -> size in bytes,
    after the other side has read all of it; give_array(i), give_bytes(i) -> a value of VALUE_BYTES that it has.
    """

    def __init__(
        self,
        who: str,
        *,
        call: Callable[[int], int] | None = None,
        map: Callable[[Sequence[int]], Sequence[int]] | None = None,
        take_array: Callable[[Any], int] | None = None,
        give_array: Callable[[int], Any] | None = None,
        take_bytes: Callable[[bytes], int] | None = None,
        give_bytes: Callable[[int], bytes] | None = None,
    ) -> None:
        self.who = who
        self.call = call
        self.map = map
        self.take_array = take_array
        self.give_array = give_array
        self.take_bytes = take_bytes
        self.give_bytes = give_bytes


# --- what is called; by name, in the subject's other processes ------------------------------------------------


def same(x: int) -> int:
    return x


def read_array(array: Any) -> int:
    """Its size, after all of it was read, as whoever uses it must."""
    array.sum()
    return int(array.nbytes)


def read_bytes(data: bytes) -> int:
    data.find(_ABSENT)  # not `count`, which looks at one byte at a time and takes longer than bringing them here
    return len(data)


_made: dict[str, Any] = {}


def make_array(i: int) -> Any:
    """Made once in each process and changed at each call: it is the way that is measured, and every time anew."""
    array = _made.get("array")
    if array is None:
        import numpy

        array = _made["array"] = numpy.ones(VALUE_BYTES // 8)
    array[0] = i
    return array


def make_bytes(i: int) -> bytes:
    """Two that take turns: never the same object twice in a row."""
    if "bytes" not in _made:
        _made["bytes"] = [bytes([n]) * VALUE_BYTES for n in (1, 2)]
    data: bytes = _made["bytes"][i % 2]
    return data


# --- measuring ------------------------------------------------------------------------------------------------


def one_by_one(call: Callable[[int], int], num_calls: int) -> dict[str, Any]:
    """Microseconds of a call that is waited for."""
    for i in range(max(20, num_calls // 10)):
        assert call(i) == i
    took_us = []
    for i in range(num_calls):
        start_s = time.perf_counter()
        returned = call(i)
        took_us.append((time.perf_counter() - start_s) * 1e6)
        assert returned == i
    took_us.sort()
    return {"value": median(took_us), "p99": took_us[min(num_calls - 1, int(num_calls * 0.99))]}


def mapped(map_: Callable[[Sequence[int]], Sequence[int]], num_calls: int) -> dict[str, Any]:
    """Calls per second."""
    map_(range(max(100, num_calls // 10)))
    inputs = list(range(num_calls))
    start_s = time.perf_counter()
    outputs = map_(inputs)
    took_s = time.perf_counter() - start_s
    assert list(outputs) == inputs
    return {"value": num_calls / took_s}


def moved(move: Callable[[int], tuple[float, int]], num_values: int) -> dict[str, Any]:
    """Gigabytes per second; `move(i)` gives the seconds that the i-th took, and its size."""
    for i in range(2):
        move(i)
    took_s = []
    for i in range(num_values):
        one_s, num_bytes = move(i + 2)
        assert num_bytes == VALUE_BYTES, num_bytes
        took_s.append(one_s)
    return {"value": VALUE_BYTES / 1e9 / median(took_s)}


def move_array_in(take: Callable[[Any], int]) -> Callable[[int], tuple[float, int]]:
    import numpy

    def move(i: int) -> tuple[float, int]:
        array = numpy.full(VALUE_BYTES // 8, float(i))  # a new one every time: nothing can be kept from the last
        start_s = time.perf_counter()
        size = take(array)
        return time.perf_counter() - start_s, size

    return move


def move_bytes_in(take: Callable[[bytes], int]) -> Callable[[int], tuple[float, int]]:
    def move(i: int) -> tuple[float, int]:
        data = bytes([i % 200]) * VALUE_BYTES
        start_s = time.perf_counter()
        size = take(data)
        return time.perf_counter() - start_s, size

    return move


def move_out(give: Callable[[int], Any], read: Callable[[Any], int]) -> Callable[[int], tuple[float, int]]:
    def move(i: int) -> tuple[float, int]:
        start_s = time.perf_counter()
        size = read(give(i))
        return time.perf_counter() - start_s, size

    return move


def has_numpy() -> bool:
    try:
        import numpy  # noqa: F401
    except ImportError:
        return False
    return True


def samples(verbs: Verbs, works: Sequence[str], is_quick: bool) -> list[dict[str, Any]]:
    """One sample of each wanted work that these verbs can do."""
    num_calls, num_mapped, num_values = (200, 1000, 3) if is_quick else (2000, 10_000, 20)
    jobs: list[tuple[str, str, Any, Callable[[Any], dict[str, Any]]]] = [
        ("warm", "µs", verbs.call, lambda call: one_by_one(call, num_calls)),
        ("map", "calls/s", verbs.map, lambda map_: mapped(map_, num_mapped)),
    ]
    if has_numpy():
        jobs += [
            ("array in", "GB/s", verbs.take_array, lambda take: moved(move_array_in(take), num_values)),
            ("array out", "GB/s", verbs.give_array, lambda give: moved(move_out(give, read_array), num_values)),
        ]
    jobs += [
        ("bytes in", "GB/s", verbs.take_bytes, lambda take: moved(move_bytes_in(take), num_values)),
        ("bytes out", "GB/s", verbs.give_bytes, lambda give: moved(move_out(give, read_bytes), num_values)),
    ]
    found = []
    for work, unit, verb, measure in jobs:
        if verb is not None and any(work == wanted or work.endswith(f" {wanted}") for wanted in _wanted(works)):
            found.append({"work": work, "who": verbs.who, "unit": unit, **measure(verb)})
    return found


def _wanted(works: Sequence[str]) -> list[str]:
    return [name for work in works for name in (("in", "out") if work == "values" else (work,))]


def report(*ways: Verbs) -> None:
    """Measure these verbs and print what was found. Arguments: `--quick`, and works: warm, map, values."""
    works = [argument for argument in sys.argv[1:] if not argument.startswith("-")] or ["warm", "map", "values"]
    found = [sample for verbs in ways for sample in samples(verbs, works, "--quick" in sys.argv)]
    print(json.dumps(found), flush=True)
