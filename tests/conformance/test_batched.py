"""Functions that are called with one item and run on lists."""

from __future__ import annotations

from typing import Any

import pytest

import deepserve
from tests.conformance.batched_code import Scales, short, together

items: Any = together


def outcome(call: deepserve.Call[Any]) -> Any:
    try:
        return call.get(timeout=60)
    except Exception as error:
        return error


def test_calls_share_a_run() -> None:
    calls = [items.spawn(text, mark="!") for text in "abcd"]
    assert [outcome(call) for call in calls] == [(f"{text}!", ["a", "b", "c", "d"]) for text in "abcd"]
    assert items("here", mark="?") == ("here?", ["here"])


def test_a_map_fills_batches() -> None:
    outputs = list(items.map("abcdefgh", kwargs={"mark": ""}))
    assert [output[0] for output in outputs] == list("abcdefgh")
    assert [output[1] for output in outputs] == [list("abcd")] * 4 + [list("efgh")] * 4


def test_a_bad_item_fails_alone() -> None:
    calls = [items.spawn(text, mark="") for text in ("a", "bad", "worse", "d")]
    a, bad, worse, d = (outcome(call) for call in calls)
    assert (type(bad), str(bad), type(worse)) == (ValueError, "bad among 1", KeyError)
    assert (a[0], d[0]) == ("a", "d")
    assert all(call.timings is not None and call.timings.attempts > 1 for call in calls)


def test_a_list_of_the_wrong_length() -> None:
    for error in [outcome(call) for call in [short.spawn(n) for n in range(2)]]:
        with pytest.raises(deepserve.BatchMismatch, match="short returned 1 results for a batch of 2"):
            raise error


def test_a_cancelled_item_makes_room() -> None:
    first = items.spawn("a", mark="")
    first.cancel()
    assert isinstance(outcome(first), deepserve.CallCancelled)
    calls = [items.spawn(text, mark="") for text in "bcde"]
    assert [outcome(call)[1] for call in calls] == [["b", "c", "d", "e"]] * 4


def test_methods() -> None:
    scales = Scales(factor=10)
    calls = [scales.weigh.spawn(number) for number in (1, 2)]
    assert [outcome(call) for call in calls] == [(10, 2), (20, 2)]
