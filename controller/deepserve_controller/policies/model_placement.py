"""Model placement: the place where a model would be ready first, if need be after others have moved away."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from typing import NamedTuple

from deepserve_controller.core.placement_views import NOWHERE, Instance, Move, Placement, PlaceOption, PodWork

RESUME_S = 0.1
RESUME_S_PER_TOKEN = 0.01
"""Of sequences that go on elsewhere, before their engines' speed is known: what ServerlessLLM begins with."""
MAX_TASKS = 16
"""More at once are never all over: beyond that the estimate is of no use."""


class Plan(NamedTuple):
    """Moves so far: what they take one after the other, and the devices that are left in the places they go to."""

    seconds: float
    moves: tuple[Move, ...]
    free: Mapping[str, int]


def least_startup_time(options: Sequence[PlaceOption], free: Mapping[str, int]) -> Placement:
    """Of all ways to get the devices: those that are free, to wait until others are done with theirs, to move engines
    away. Ties go to the first place, and to what moves less.

    ServerlessLLM's dynamic programme over who moves away and how many devices that frees, with its faults mended: it
    has a column for every sum of devices, so that an instance with more than are missing can move, too, and what is
    taken in the place that it moves to is its own number of devices. It has waiting as a choice, which its paper
    discusses and its scheduler lacks.
    """
    found = [placement for option in options for placement in _placements(option, free)]
    best = min(found, key=lambda each: each.ready_s, default=NOWHERE)
    others = [f"{each.ready_s:.3g} s {_how(each)}" for each in found if each is not best and each.ready_s < math.inf]
    return best._replace(reason=f"{best.reason}; else {', '.join(others)}") if others else best


def without_moves(options: Sequence[PlaceOption], free: Mapping[str, int]) -> Placement:
    """To compare with: who has no device waits."""
    return least_startup_time([option._replace(instances=()) for option in options], free)


def resume_s(work: PodWork) -> float:
    """T = a * tokens + b: until its sequences go on elsewhere."""
    per_token_s = 1.0 / work.prompt_tokens_per_s if work.prompt_tokens_per_s > 0.0 else RESUME_S_PER_TOKEN
    return per_token_s * work.tokens + RESUME_S


def idle_in_s(work: PodWork) -> float:
    """Until a pod with so many tasks has none: what is left of a busy period of a queue in which all are served at once
    (M/G/infinity), (exp(n) - 1) / n mean times, for others arrive meanwhile. A task that has run for longer than the
    mean is believed to run for as long again."""
    if not work.tasks:
        return 0.0
    mean_s, tasks = max(work.mean_s, work.longest_s), min(work.tasks, MAX_TASKS)
    return mean_s * math.expm1(tasks) / tasks if mean_s > 0.0 else math.inf


# --- inside ---------------------------------------------------------------------------------------------


def _placements(option: PlaceOption, free: Mapping[str, int]) -> Iterator[Placement]:
    missing = option.devices - option.free_devices
    if missing <= 0:
        text = f"ready in {option.start_s:.3g} s on {option.place}: {option.free_devices} devices are free"
        yield Placement(option.place, option.start_s, (), text)
        return
    wait_s = _wait_s(option, missing)
    ready_s = wait_s + option.start_s
    yield Placement(option.place, ready_s, (), f"waits for {option.place}, some {ready_s:.3g} s", True)
    if (plan := _cheapest_moves(option, missing, free)) is not None:
        ready_s = plan.seconds + option.start_s
        text = f"ready in {ready_s:.3g} s on {option.place}: {_moved_text(plan.moves)} first"
        yield Placement(option.place, ready_s, plan.moves, text)


def _how(placement: Placement) -> str:
    if placement.is_wait:
        return f"to wait for {placement.place}"
    return f"on {placement.place}" + (f" once {_moved_text(placement.moves)}" if placement.moves else "")


def _moved_text(moves: tuple[Move, ...]) -> str:
    return " and ".join(
        f"{move.instance_id} moves to {move.to_place}" if move.to_place else f"others take over from {move.instance_id}"
        for move in moves
    )


def _wait_s(option: PlaceOption, missing: int) -> float:
    """Until the first that are done have given up enough."""
    for seconds, number in sorted((idle_in_s(work), number) for number, work in option.holders):
        missing -= number
        if missing <= 0:
            return seconds
    return math.inf


def _cheapest_moves(option: PlaceOption, missing: int, free: Mapping[str, int]) -> Plan | None:
    """Free at least `missing` devices of the place."""
    elsewhere = {name: number for name, number in free.items() if name != option.place}
    plans: dict[int, Plan] = {0: Plan(0.0, (), elsewhere)}
    for instance in option.instances:
        for freed, plan in list(plans.items()):
            moved = _moved(instance, plan)
            if moved is None:
                continue
            total = freed + instance.devices
            if total not in plans or moved.seconds < plans[total].seconds:
                plans[total] = moved
    enough = [plan for freed, plan in plans.items() if freed >= missing]
    return min(enough, key=lambda plan: plan.seconds, default=None)


def _moved(instance: Instance, plan: Plan) -> Plan | None:
    """To the engines that have it already, or else to the place where it is ready first, of those with room."""
    if any(move.instance_id == instance.instance_id for move in plan.moves):
        return None
    if instance.can_join:
        seconds = plan.seconds + resume_s(instance.work)
        return Plan(seconds, (*plan.moves, Move(instance.instance_id, "")), plan.free)
    places = [name for name in instance.starts_s if plan.free.get(name, 0) >= instance.devices]
    if not places:
        return None
    to_place = min(places, key=lambda name: (instance.starts_s[name], name))
    free = {**plan.free, to_place: plan.free[to_place] - instance.devices}
    seconds = plan.seconds + resume_s(instance.work) + instance.starts_s[to_place]
    return Plan(seconds, (*plan.moves, Move(instance.instance_id, to_place)), free)
