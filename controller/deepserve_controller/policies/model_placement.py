"""Model placement: the host where a model would be ready first, if need be after others have moved away."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import NamedTuple


class Instance(NamedTuple):
    """A running engine that could be moved: its tokens are computed again elsewhere (ServerlessLLM's live migration).

    resume_s: what that takes, `a * tokens + b` of its model. starts_s: by host, until its model is ready there; its own
    host and those where it cannot run are missing.
    """

    instance_id: str
    devices: int
    resume_s: float
    starts_s: Mapping[str, float]


class HostOption(NamedTuple):
    """start_s: until the model to be placed is ready on this host, once it has the devices."""

    host: str
    free_devices: int
    start_s: float
    instances: Sequence[Instance] = ()


class Move(NamedTuple):
    instance_id: str
    to_host: str


class Placement(NamedTuple):
    host: str
    ready_s: float
    moves: tuple[Move, ...]
    reason: str


class Plan(NamedTuple):
    """Moves so far: what they take one after the other, and the devices that are left on the hosts they go to."""

    seconds: float
    moves: tuple[Move, ...]
    free: Mapping[str, int]


def least_startup_time(hosts: Sequence[HostOption], devices: int) -> Placement | None:
    """None where no host can have `devices` free, even after moves. Ties go to the first host.

    ServerlessLLM's dynamic programme over who moves away and how many devices that frees, with its faults mended: it
    has a column for every sum of devices, so that an instance with more than are missing can move, too, and what is
    taken on the host that it moves to is its own number of devices.
    """
    free = {host.host: host.free_devices for host in hosts}
    best: Placement | None = None
    for host in hosts:
        missing = devices - host.free_devices
        if missing <= 0:
            text = f"ready in {host.start_s:.3g} s: {host.free_devices} devices are free"
            found = Placement(host.host, host.start_s, (), text)
        elif (plan := _cheapest_moves(host, missing, free)) is not None:
            ready_s = plan.seconds + host.start_s
            text = f"ready in {ready_s:.3g} s: {len(plan.moves)} engines move away first"
            found = Placement(host.host, ready_s, plan.moves, text)
        else:
            continue
        if best is None or found.ready_s < best.ready_s:
            best = found
    return best


def _cheapest_moves(host: HostOption, missing: int, free: Mapping[str, int]) -> Plan | None:
    """Free at least `missing` devices of `host`."""
    elsewhere = {name: number for name, number in free.items() if name != host.host}
    plans: dict[int, Plan] = {0: Plan(0.0, (), elsewhere)}
    for instance in host.instances:
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
    """To the host where it is ready first, of those with room."""
    hosts = [name for name in instance.starts_s if plan.free.get(name, 0) >= instance.devices]
    if not hosts or any(move.instance_id == instance.instance_id for move in plan.moves):
        return None
    to_host = min(hosts, key=lambda name: (instance.starts_s[name], name))
    free = {**plan.free, to_host: plan.free[to_host] - instance.devices}
    seconds = plan.seconds + instance.resume_s + instance.starts_s[to_host]
    return Plan(seconds, (*plan.moves, Move(instance.instance_id, to_host)), free)
