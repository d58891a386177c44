"""What the choice of a place for an engine may see, and what it answers; read-only.

A *place* has devices of one kind and model that stand for each other: `npu:910c`, `cpu`; in the simulator also a host.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from typing import NamedTuple


class PodWork(NamedTuple):
    """What runs on one busy pod.

    tokens: of all its sequences, prompts with answers: they are computed again where it moves. is_movable: each of them
    can go on elsewhere. mean_s: what a task of its function takes, 0 unknown; longest_s: that one has run by now.
    prompt_tokens_per_s: of its function's engines, 0 unknown. room: free slots of its function's other pods.
    """

    tasks: int = 0
    tokens: int = 0
    is_movable: bool = False
    mean_s: float = 0.0
    longest_s: float = 0.0
    prompt_tokens_per_s: float = 0.0
    room: int = 0


class Instance(NamedTuple):
    """A running engine that could be moved: its tokens are computed again elsewhere (ServerlessLLM's live migration).

    starts_s: by place, until its model is ready there; its own place and those where it cannot run are missing.
    can_join: other engines of its model have room for all of its sequences, and it need not be replaced.
    """

    instance_id: str
    devices: int
    work: PodWork
    starts_s: Mapping[str, float]
    can_join: bool = False


class PlaceOption(NamedTuple):
    """start_s: until the model to be placed is ready there, once it has the `devices` that one engine of it takes.

    holders: work of who holds its devices and could give them up when that is done, with how many devices it has.
    """

    place: str
    devices: int
    free_devices: int
    start_s: float
    instances: Sequence[Instance] = ()
    holders: Sequence[tuple[int, PodWork]] = ()


class Move(NamedTuple):
    """to_place: where another engine is started first; empty where others of its model take what it runs."""

    instance_id: str
    to_place: str


class Placement(NamedTuple):
    """ready_s: as estimated; infinite where nobody knows. is_wait: nothing is done but to wait for devices there."""

    place: str
    ready_s: float
    moves: tuple[Move, ...]
    reason: str
    is_wait: bool = False


NOWHERE = Placement("", math.inf, (), "no place has such devices", True)

PlaceEngine = Callable[[Sequence[PlaceOption], Mapping[str, int]], Placement]
"""Chooses among options; the mapping says how many devices are free in each place, also in others."""
