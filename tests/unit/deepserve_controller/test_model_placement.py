"""Placement against brute force."""

from __future__ import annotations

from itertools import combinations
from math import e, inf
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from deepserve_controller.core.placement_views import NOWHERE, Instance, Move, Placement, PlaceOption, PodWork
from deepserve_controller.policies.model_placement import (
    RESUME_S,
    idle_in_s,
    least_startup_time,
    resume_s,
    without_moves,
)


def at_work(quarters: int = 0, **options: Any) -> PodWork:
    """Its sequences go on elsewhere after so many quarters of a second, and RESUME_S."""
    return PodWork(1, quarters, True, prompt_tokens_per_s=4.0, **options)


def place(*options: PlaceOption) -> Placement:
    return least_startup_time(options, {option.place: option.free_devices for option in options})


def test_a_free_place_a_faster_one_and_one_that_is_made_free() -> None:
    slow = PlaceOption("a", 1, 1, 9.0)
    mover = Instance("i-1", 2, at_work(2), {"c": 1.0, "a": 3.0})
    fast = PlaceOption("b", 1, 0, 1.0, [mover])
    spare = PlaceOption("c", 1, 2, 20.0)
    chosen = place(slow, fast, spare)
    assert (chosen.place, chosen.moves, chosen.is_wait) == ("b", (Move("i-1", "c"),), False)
    assert chosen.ready_s == 2.5 + RESUME_S
    assert chosen.reason == "ready in 2.6 s on b: i-1 moves to c first; else 9 s on a, 20 s on c"
    assert place(slow, fast)[:3] == place(slow)[:3], "nowhere to move to with 2 devices"
    assert place(slow._replace(devices=2)).ready_s == inf
    assert place() == NOWHERE


@pytest.mark.parametrize(
    ("mean_s", "tokens", "start_s", "waits"),
    [(1.0, 4, 5.0, True), (10.0, 4, 5.0, False), (10.0, 400, 5.0, True), (10.0, 4, 50.0, True), (0.0, 4, 5.0, False)],
)
def test_who_is_done_soon_is_waited_for(mean_s: float, tokens: int, start_s: float, waits: bool) -> None:
    work = at_work(tokens, mean_s=mean_s, longest_s=0.5 if mean_s else 30.0)
    mover = Instance("i-1", 1, work, {"c": start_s})
    chosen = least_startup_time([PlaceOption("b", 1, 0, 1.0, [mover], [(1, work)])], {"b": 0, "c": 1})
    assert chosen.is_wait is waits and not (waits and chosen.moves)
    assert ("once i-1 moves to c" in chosen.reason) is waits and ("s to wait for b" in chosen.reason) is not waits


def test_engines_that_have_the_model_are_the_shortest_way() -> None:
    work = at_work(2, mean_s=60.0)
    mover = Instance("i-1", 1, work, {"c": 0.5}, can_join=True)
    chosen = least_startup_time([PlaceOption("b", 1, 0, 1.0, [mover], [(1, work)])], {"b": 0, "c": 1})
    assert chosen.moves == (Move("i-1", ""),) and chosen.ready_s == 1.5 + RESUME_S
    assert "others take over from i-1 first" in chosen.reason


def test_without_moves_there_is_only_waiting() -> None:
    work = at_work(2, mean_s=60.0)
    option = PlaceOption("b", 1, 0, 1.0, [Instance("i-1", 1, work, {"c": 0.5})], [(1, work)])
    chosen = without_moves([option], {"b": 0, "c": 1})
    assert chosen.is_wait and chosen.ready_s == pytest.approx(1.0 + 60.0 * (e - 1.0))


def test_how_long_until_nothing_runs() -> None:
    assert idle_in_s(PodWork()) == 0.0
    assert idle_in_s(PodWork(1, mean_s=2.0, longest_s=1.0)) == pytest.approx(2.0 * (e - 1.0))
    assert idle_in_s(PodWork(1, mean_s=1.0, longest_s=2.0)) == pytest.approx(2.0 * (e - 1.0)), "as long again"
    assert idle_in_s(PodWork(2, longest_s=3.0)) == pytest.approx(3.0 * (e**2 - 1.0) / 2)
    assert idle_in_s(PodWork(3)) == inf and idle_in_s(PodWork(10**6, mean_s=1.0)) < inf


INSTANCES = st.lists(
    st.tuples(st.integers(1, 3), st.integers(0, 40), st.integers(0, 40)), min_size=0, max_size=6
).map(
    lambda made: [
        Instance(f"i-{number}", devices, at_work(resume), {"else": start / 4})
        for number, (devices, resume, start) in enumerate(made)
    ]
)  # fmt: skip


@given(INSTANCES, st.integers(0, 3), st.integers(1, 6))
def test_with_room_elsewhere_no_other_choice_is_faster(instances: list[Instance], free: int, devices: int) -> None:
    chosen = place(PlaceOption("full", devices, free, 2.0, instances), PlaceOption("else", devices, 1000, 1e9))
    costs = [
        sum(resume_s(each.work) + each.starts_s["else"] for each in moved)
        for size in range(len(instances) + 1)
        for moved in combinations(instances, size)
        if free + sum(each.devices for each in moved) >= devices
    ]
    assert chosen.ready_s == pytest.approx(min([2.0 + cost for cost in costs], default=1e9))


@given(INSTANCES, st.integers(0, 3), st.integers(0, 5), st.integers(1, 5))
def test_no_place_is_overbooked(instances: list[Instance], free: int, room: int, devices: int) -> None:
    chosen = place(PlaceOption("full", devices, free, 2.0, instances), PlaceOption("else", devices, room, 1e9))
    if chosen.is_wait:
        return
    by_id = {each.instance_id: each for each in instances}
    moved = [by_id[move.instance_id] for move in chosen.moves]
    assert len(set(chosen.moves)) == len(moved)
    if chosen.place == "full":
        assert free + sum(each.devices for each in moved) >= devices
        assert sum(each.devices for each in moved) <= room
    else:
        assert not moved and room >= devices
