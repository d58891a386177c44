"""DeviceMoves: engines that make room on the devices which another model waits for (ServerlessLLM 2.3, 2.4).

Who waits, and where nobody is idle who could give, asks what the busy pods are at. The policy compares: waiting until
they are done, and moving what runs there, to engines that have the model or to one that is started elsewhere first.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Protocol

import msgspec

from deepserve_controller.core.actions import Action, Notify
from deepserve_controller.core.alarms import Alarms
from deepserve_controller.core.events import WorkAsked, WorkTold
from deepserve_controller.core.fleet import Fleet
from deepserve_controller.core.function_pool import FunctionPool
from deepserve_controller.core.host_devices import HostDevices
from deepserve_controller.core.host_memory import busy_pod
from deepserve_controller.core.placement_views import Instance, Move, PlaceEngine, PlaceOption, PodWork
from deepserve_controller.core.pod_record import PodRecord
from deepserve_controller.core.startup_book import StartupBook

LOOK_S = 1.0
"""Between two looks at what holds the devices that somebody waits for."""
RETRY_S = 30.0
"""An engine that could not be moved is left alone for so long."""
LOOK_ALARM = "look for devices"
NO_WORK = PodWork()


class DeviceMove(msgspec.Struct, eq=False):
    """`giver` is to leave its devices to `asking`, when `target`, of the same function, is ready elsewhere."""

    asking: FunctionPool
    owner: FunctionPool
    giver: PodRecord
    target: PodRecord
    reason: str


class PodStarter(Protocol):
    """The scaler, as moves need it."""

    pods: dict[str, PodRecord]
    pools: dict[str, FunctionPool]
    short: dict[str, FunctionPool]
    fleet: Fleet

    def start_in(self, place: str, pool: FunctionPool, reason: str, now_s: float) -> PodRecord | None: ...
    def give_devices(self, pool: FunctionPool, is_busy_too: bool, now_s: float) -> bool: ...


class DeviceMoves:
    """A part of the scaler. The giver keeps its sequences until the target is ready, and then moves them as any pod
    that drains does (`Migrations`). Whatever goes wrong before, they go on where they are:

    - The target fails, or dies: the giver stays, and is left alone for a while.
    - The giver dies, or falls idle: its devices are free, and the target is the engine that its model has now.
    - Nobody waits any more, or one of the functions is removed: the target is given up.
    """

    def __init__(
        self,
        starter: PodStarter,
        devices: HostDevices,
        startups: StartupBook,
        alarms: Alarms,
        out: list[Action],
        place: PlaceEngine,
    ) -> None:
        self._starter = starter
        self._devices = devices
        self._startups = startups
        self._alarms = alarms
        self._out = out
        self._place = place
        self._moves: dict[str, DeviceMove] = {}
        """By the target's id."""
        self._asked_s: dict[str, float] = {}
        self._reasons: dict[str, str] = {}
        """By function id of those who wait: what was decided last."""
        self._failed_s: dict[str, float] = {}
        """By pod id: when moving it failed."""
        self.num_begun = 0

    def want(self, pool: FunctionPool, now_s: float) -> None:
        """No device is free for a pod of it and no idle pod has enough. Only who has no pod at all moves others."""
        is_soon = now_s < self._asked_s.get(pool.function_id, -LOOK_S) + LOOK_S
        if pool.pods or is_soon or self._is_served(pool):
            return
        places = self._devices.places(pool.spec)
        holders = [pod.pod_id for pod in self._starter.pods.values() if self._devices.place_of(pod) in places]
        if holders:
            self._asked_s[pool.function_id] = now_s
            self._alarms.set(now_s + LOOK_S, LOOK_ALARM, pool)
            self._out.append(Notify(WorkAsked(pool.function_id, tuple(holders))))

    def on_work_told(self, event: WorkTold, now_s: float) -> None:
        pool = self._starter.short.get(event.function_id)
        if pool is None or pool.pods or self._is_served(pool):
            return
        placement = self._place(self._options(pool, event.work, now_s), self._devices.free())
        self._reasons[pool.function_id] = placement.reason
        pool.short_reason = f"{self._devices.short_reason(pool.spec)}; {placement.reason}"
        if placement.is_wait:
            self._starter.give_devices(pool, is_busy_too=True, now_s=now_s)
        for move in placement.moves:
            self._begin(move, pool, placement.reason, now_s)

    def reason(self, pool: FunctionPool) -> str:
        """What was decided for who waits; empty where nothing was yet."""
        return self._reasons.get(pool.function_id, "")

    def is_target(self, pod_id: str) -> bool:
        return pod_id in self._moves

    def target_ready(self, pod: PodRecord, now_s: float) -> None:
        """What runs on the giver can go there: it drains."""
        move = self._moves.pop(pod.pod_id, None)
        if move is None:
            return
        move.owner.leaving.discard(move.giver.pod_id)
        if move.giver.pod_id in move.owner.pods:
            self._starter.fleet.give_up(move.owner, [move.giver], move.reason, now_s)

    def target_failed(self, pod_id: str, text: str, now_s: float) -> None:
        """It is gone, and was taken from its function already."""
        move = self._moves.pop(pod_id)
        move.owner.leaving.discard(move.giver.pod_id)
        self._failed_s[move.giver.pod_id] = now_s
        self._reasons[move.asking.function_id] = f"{move.giver.pod_id} stays, for {text}"

    def settle(self, now_s: float) -> None:
        """After each event: what was to be moved for somebody who does not wait any more, or cannot be, is not."""
        for pod_id, move in list(self._moves.items()):
            is_waited_for = self._starter.short.get(move.asking.function_id) is move.asking
            if move.giver.pod_id not in move.owner.pods or move.target.pod_id not in move.owner.pods:
                del self._moves[pod_id]  # the target, if it is there, takes the giver's place
                move.owner.leaving.discard(move.giver.pod_id)
            elif not is_waited_for:
                del self._moves[pod_id]
                reason = f"{move.asking.spec.label} does not wait any more"
                self._starter.fleet.give_up(move.owner, [move.target], reason, now_s)
                move.owner.leaving.discard(move.giver.pod_id)
        for function_id in self._reasons.keys() - self._starter.short.keys():
            del self._reasons[function_id]
        for function_id in self._asked_s.keys() - self._starter.pools.keys():
            del self._asked_s[function_id]
        for gone in self._failed_s.keys() - self._starter.pods.keys():
            del self._failed_s[gone]

    def check_invariants(self) -> None:
        assert self._asked_s.keys() <= self._starter.pools.keys(), "a function that was removed is remembered"
        assert self._failed_s.keys() <= self._starter.pods.keys(), "a pod that is gone is remembered"
        givers = {move.giver.pod_id for move in self._moves.values()}
        assert len(givers) == len(self._moves), "a pod is moved twice"
        for pod_id, move in self._moves.items():
            assert move.target.pod_id == pod_id and pod_id in move.owner.pods, f"{pod_id} is the target of nothing"
            assert move.target.state != "bound", f"{pod_id} is ready, and {move.giver.pod_id} was not told"
            assert move.giver.pod_id in move.owner.leaving, f"{move.giver.pod_id} moves and counts as staying"
        for pool in self._starter.pools.values():
            assert pool.leaving <= givers, f"{pool.spec.label}: {pool.leaving - givers} leave for nobody"

    # --- inside ---------------------------------------------------------------------------------------

    def _is_served(self, pool: FunctionPool) -> bool:
        """Pods that leave or move will free what it needs."""
        if any(move.asking is pool for move in self._moves.values()):
            return True
        free = self._devices.free()
        for pod in self._starter.pods.values():
            if pod.state in ("draining", "stopped") and pod.devices.ids:
                free[self._devices.place_of(pod)] += len(pod.devices.ids)
        return any(free.get(place, 0) >= number for place, number in self._devices.places(pool.spec).items())

    def _begin(self, move: Move, asking: FunctionPool, reason: str, now_s: float) -> None:
        giver = self._starter.pods[move.instance_id]
        owner = self._starter.pools[giver.function_id]
        why = f"gives its devices to {asking.spec.label}: {reason}"
        if not move.to_place:
            self.num_begun += 1
            return self._starter.fleet.give_up(owner, [giver], why, now_s)
        owner.leaving.add(giver.pod_id)
        text = f"for {giver.pod_id}, which {why}"
        target = self._starter.start_in(move.to_place, owner, text, now_s)
        if target is None:
            owner.leaving.discard(giver.pod_id)
            self._failed_s[giver.pod_id] = now_s
            self._reasons[asking.function_id] = f"{giver.pod_id} stays: there is no memory for another one"
            return
        self.num_begun += 1
        self._moves[target.pod_id] = DeviceMove(asking, owner, giver, target, why)

    def _options(self, pool: FunctionPool, work: Mapping[str, PodWork], now_s: float) -> list[PlaceOption]:
        free = self._devices.free()
        options = []
        for place, number in self._devices.places(pool.spec).items():
            holders = [pod for pod in self._starter.pods.values() if self._devices.place_of(pod) == place]
            options.append(
                PlaceOption(
                    place,
                    number,
                    free[place],
                    self._startups.start_s(pool.spec, place, now_s),
                    list(self._instances(holders, pool, work, now_s)),
                    [(len(pod.devices.ids), work.get(pod.pod_id, NO_WORK)) for pod in holders if pod.is_busy],
                )
            )
        return options

    def _instances(
        self, holders: Iterable[PodRecord], asking: FunctionPool, work: Mapping[str, PodWork], now_s: float
    ) -> Iterable[Instance]:
        """Those of other functions whose sequences can all be moved."""
        spare = {pod.pod_id for pod in busy_pod(asking, self._starter.pools)}
        for pod in holders:
            owner = self._starter.pools.get(pod.function_id)
            at = work.get(pod.pod_id, NO_WORK)
            has_failed = now_s < self._failed_s.get(pod.pod_id, -RETRY_S) + RETRY_S
            if owner is None or owner is asking or pod.state != "bound" or not at.is_movable or has_failed:
                continue
            if pod.pod_id in owner.leaving:
                continue
            starts_s = {
                place: self._startups.start_s(owner.spec, place, now_s)
                for place, number in self._devices.places(owner.spec).items()
                if place != self._devices.place_of(pod) and number <= self._devices.free()[place]
            }
            can_join = pod.pod_id in spare and at.room >= at.tasks
            yield Instance(pod.pod_id, len(pod.devices.ids), at, starts_s, can_join)
