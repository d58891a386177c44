"""Scaler: the cluster manager's half that decides how many pods each function has, and what has room on the host.

It hears of no event: the cluster manager, the other half, says when to look. What it decides is done by the fleet.
"""

from __future__ import annotations

from deepserve.protocol.ids import IdAllocator
from deepserve.protocol.specs import FunctionSpec
from deepserve_controller.core import events
from deepserve_controller.core.actions import Action, Notify
from deepserve_controller.core.alarms import Alarms
from deepserve_controller.core.device import Device
from deepserve_controller.core.device_moves import DeviceMoves
from deepserve_controller.core.excess_pods import review_at_s, superfluous_pods
from deepserve_controller.core.fleet import Fleet
from deepserve_controller.core.function_pool import FunctionPool
from deepserve_controller.core.function_templates import FunctionTemplates
from deepserve_controller.core.host_devices import HostDevices
from deepserve_controller.core.host_memory import HostMemory
from deepserve_controller.core.memory_views import ChooseParking
from deepserve_controller.core.placement_views import NOWHERE, PlaceEngine
from deepserve_controller.core.pod_record import PodRecord
from deepserve_controller.core.scaling_views import Autoscaler, Prewarm
from deepserve_controller.core.startup_book import StartupBook
from deepserve_controller.core.warm_pool import WarmPool


class Scaler:
    """Actions are appended to `out`, which the cluster manager returns."""

    def __init__(
        self,
        ids: IdAllocator,
        autoscaler: Autoscaler,
        model_autoscaler: Autoscaler,
        prewarm: Prewarm,
        alarms: Alarms,
        out: list[Action],
        stop_grace_s: float,
        usable_mib: int,
        templates: FunctionTemplates,
        prewarmed: tuple[str, ...],
        park: ChooseParking,
        devices: tuple[Device, ...] = (),
        place: PlaceEngine = lambda options, free: NOWHERE,
    ) -> None:
        self._autoscaler = autoscaler
        self._model_autoscaler = model_autoscaler
        self._alarms = alarms
        self._out = out
        self.prewarmed = prewarmed
        self.pods: dict[str, PodRecord] = {}
        self.pools: dict[str, FunctionPool] = {}
        self.warm = WarmPool(self.pods, prewarm)
        self.memory = HostMemory(self.pods, usable_mib, templates.specs, park, templates.held_mib)
        self.devices = HostDevices(self.pods, devices)
        self.startups = templates.startups = StartupBook(self.devices, usable_mib)
        self.fleet = Fleet(
            self.pods, self.pools, ids, alarms, out, stop_grace_s, self.devices, self.startups, templates
        )  # fmt: skip
        self._templates = templates
        templates.may_hold_devices = self.devices.may_hold
        templates.without_devices = self.devices.without_devices
        templates.has_room = self._has_template_room
        self.moves = DeviceMoves(self, self.devices, self.startups, alarms, out, place)
        self.short: dict[str, FunctionPool] = {}
        """Functions that wait for memory or devices, the longest waiting first."""

    def autoscaler_of(self, spec: FunctionSpec) -> Autoscaler:
        return self._model_autoscaler if spec.kind == "model" else self._autoscaler

    # --- how many --------------------------------------------------------------------------------------

    def scale(self, pool: FunctionPool, now_s: float) -> None:
        """Start what is missing. What is too much is found by a review."""
        self.decide(pool, now_s)
        before = len(pool.pods)
        missing = pool.wanted.pods - pool.num_pods
        if missing > 0 and not (pool.is_broken or pool.is_removed or now_s < pool.failures.retry_s):
            if not (why_never := self.why_never(pool.spec)):
                source = self._templates.source(pool, missing, now_s)
                missing = source.pods  # the others wait for the function's template
                while missing > 0 and self._add_pod(pool, now_s, source.template_id):
                    missing -= 1
                if missing > 0 and self._ask_for_room(pool, missing, now_s):
                    while missing > 0 and self._add_pod(pool, now_s, source.template_id):
                        missing -= 1
                self._note_short(pool, missing > 0, now_s)
            elif pool.queued:
                pool.is_broken, pool.queued = True, 0
                self._out.append(Notify(events.ExecutorFailed("", pool.function_id, why_never, is_refused=True)))
        elif pool.short_reason:
            self._note_short(pool, False, now_s)
        if len(pool.pods) != before:
            self.fleet.record(pool, before, pool.wanted.reason, now_s)
        self.plan_review(pool, now_s)

    def why_never(self, spec: FunctionSpec) -> str:
        """Why not even one pod of `spec` can start here; empty where one can."""
        return self.memory.never_fits(spec) or self.devices.never_fits(spec)

    def decide(self, pool: FunctionPool, now_s: float) -> None:
        autoscaler = self.autoscaler_of(pool.spec)
        start_s = self.startups.soonest_s(pool.spec, now_s, self._templates.use_of(pool))
        pool.wanted = autoscaler.decide(pool.load(autoscaler, start_s, now_s), now_s)
        pool.panic = pool.wanted.panic
        if pool.wanted.needed or pool.needed:
            pool.needed = pool.wanted.needed
            pool.note_use(now_s)

    def plan_review(self, pool: FunctionPool, now_s: float, is_again: bool = False) -> None:
        """One alarm serves all idle times of a function's pods: a warm call must not set one each time."""
        if pool.review is None and not pool.is_removed:
            at_s = review_at_s(pool, now_s, is_again)
            if at_s is not None:
                pool.review = self._alarms.set(at_s, "review", pool)

    def review(self, pool: FunctionPool, now_s: float) -> None:
        """Give up the pods that are not wanted any more."""
        pool.review = None
        if pool.is_removed:
            return
        self.decide(pool, now_s)
        self.fleet.give_up(pool, superfluous_pods(pool, now_s), f"idle for {pool.window_s:g} s; {{}}", now_s)
        self.plan_review(pool, now_s, is_again=True)

    def _add_pod(self, pool: FunctionPool, now_s: float, template_id: str) -> bool:
        """Bind a warm pod, or start one that is bound when it connects; False while there is no room for it."""
        spec = pool.spec
        environment, memory_mib = spec.environment, spec.resources.memory_mib
        if self.devices.choose(spec) is None:
            return False
        pod = self.warm.find(spec) if not template_id else None
        if pod is not None:
            self.fleet.bind(pod, pool, now_s)
            self.warm.note_taken(environment, now_s)
            self.refill(environment, now_s)
        elif self._has_room(pool, now_s):
            pod = self.fleet.start(environment, memory_mib, pool.wanted.reason, now_s, template_id)
            self.fleet.claim(pod, pool, now_s)
            if template_id:
                return True
            self.warm.note_cold_start(environment, memory_mib, now_s)
            self._tend(environment, now_s)
        else:
            return False
        return True

    def refill(self, environment: str, now_s: float) -> None:
        """Bring the warm pool of `environment` to what the prewarm policy wants, where memory allows."""
        missing = self.warm.missing(environment, now_s)
        for _ in range(missing.pods):
            if self.short or self.memory.missing_mib(environment, 0) > 0:
                break
            self.fleet.start_warm(environment, missing.reason, now_s)
        for pod in self.warm.superfluous_pods(environment, -missing.pods):
            self.fleet.stop(pod, missing.reason, now_s)
        self._tend(environment, now_s)

    def _tend(self, environment: str, now_s: float) -> None:
        """Look at its warm pool again when time alone may change its size."""
        at_s = self.warm.tend_at_s(environment, now_s)
        if at_s is not None and environment in self.prewarmed and environment not in self.warm.tended:
            self.warm.tended.add(environment)
            self._alarms.set(at_s, "warm pool", environment)

    # --- memory ---------------------------------------------------------------------------------------

    def _has_room(self, pool: FunctionPool, now_s: float) -> bool:
        """For one more pod of it, after those who have no pod at all; templates that nobody uses make some at once."""
        environment, memory_mib = pool.spec.environment, pool.spec.resources.memory_mib
        if self._yields(pool):
            return False
        self._templates.give_up_unused(pool, lambda: self.memory.missing_mib(environment, memory_mib), now_s)
        return self.memory.missing_mib(environment, memory_mib) <= 0

    def _ask_for_room(self, pool: FunctionPool, num_pods: int, now_s: float) -> bool:
        """Let others give up what so many more pods of `pool` need: they start when it is free. True where some sleep,
        which makes room at once."""
        spec = pool.spec
        if self.devices.choose(spec) is None:
            if not self.give_devices(pool, is_busy_too=False, now_s=now_s):
                self.moves.want(pool, now_s)
            return False
        missing_mib = self.memory.missing_mib(spec.environment, spec.resources.memory_mib, num_pods)
        return self._make_room(
            pool, missing_mib - self.memory.leaving_mib(), f"gives its memory to {spec.label}", now_s
        )

    def give_devices(self, pool: FunctionPool, is_busy_too: bool, now_s: float) -> bool:
        """Let others end that have what a pod of `pool` needs; False where there are none."""
        givers = self.devices.givers(pool, self.pools, is_busy_too)
        for pod in givers:
            self.fleet.give_up(self.pools[pod.function_id], [pod], f"gives its devices to {pool.spec.label}", now_s)
        return bool(givers)

    def _make_room(self, asking: FunctionPool | None, missing_mib: int, reason: str, now_s: float) -> bool:
        is_some_asleep = False
        for pod, parking in self.memory.givers(asking, self.pools, self.warm.unbound_pods(), missing_mib, now_s):
            why = f"{reason}; {parking.reason}" if parking.reason else reason
            if parking.level:
                self.fleet.sleep(pod, parking.level, why, now_s)
                is_some_asleep = True
            elif pod.state == "warm":
                self.fleet.stop(pod, why, now_s)
            else:
                self.fleet.give_up(self.pools[pod.function_id], [pod], why, now_s)
        return is_some_asleep

    def wake(self, pod: PodRecord, now_s: float) -> None:
        """A task was sent to it: it takes its memory, and idle pods of others make up for that."""
        pod.is_asleep, pod.reason = False, "woken by a task"
        self.memory.note_woken()
        self.repay(now_s)

    def repay(self, now_s: float) -> None:
        """While woken pods have more than there is, let idle ones give theirs."""
        if (missing_mib := self.memory.overdrawn_mib) > 0:
            self._make_room(None, missing_mib - self.memory.leaving_mib(), "gives its memory to who was woken", now_s)

    def _yields(self, pool: FunctionPool) -> bool:
        """Room goes first to who waits for it and has no pod at all."""
        return bool(pool.pods) and any(not other.pods for other in self.short.values())

    def _has_template_room(self, spec: FunctionSpec) -> bool:
        """For a template and a pod of it; without a snapshot it is a luxury, for which nobody is to wait."""
        return self.memory.has_room(spec, 2) and (spec.is_shared or not self.short)

    def _note_short(self, pool: FunctionPool, is_short: bool, now_s: float) -> None:
        if not is_short:
            self.short.pop(pool.function_id, None)
            pool.short_reason = ""
            return
        was_short = bool(pool.short_reason)
        self.short[pool.function_id] = pool
        pool.short_reason = self.devices.short_reason(pool.spec) or self.memory.short_reason(pool.spec)
        if plan := self.moves.reason(pool):
            pool.short_reason = f"{pool.short_reason}; {plan}"
        if not was_short:
            self.fleet.record(pool, len(pool.pods), f"{pool.wanted.reason}; {pool.short_reason}", now_s)

    def forget(self, pool: FunctionPool) -> None:
        """The function was removed and its pods were given up."""
        pool.is_removed = True
        del self.pools[pool.function_id]
        self.short.pop(pool.function_id, None)

    def use_room(self, now_s: float) -> None:
        """Memory became free, or a pod fell idle that could give its own: to who has no pod, then first come first."""
        for pool in sorted(self.short.values(), key=lambda pool: bool(pool.pods)):
            self.scale(pool, now_s)
        if self.memory.usable_mib and not self.short:  # warm pods may have given theirs
            for environment in self.prewarmed:
                self.refill(environment, now_s)

    # --- for moves between devices --------------------------------------------------------------------

    def start_in(self, place: str, pool: FunctionPool, reason: str, now_s: float) -> PodRecord | None:
        """One more pod of it, with devices of that place; None where they are taken, or there is no memory for it."""
        spec = pool.spec
        if self.devices.choose(spec, place) is None:
            return None
        pod = self.warm.find(spec)
        if pod is None:
            if self.memory.missing_mib(spec.environment, spec.resources.memory_mib) > 0:
                return None
            pod = self.fleet.start(spec.environment, spec.resources.memory_mib, reason, now_s)
            self.fleet.claim(pod, pool, now_s, place)
        else:
            self.fleet.claim(pod, pool, now_s, place)
            self.fleet.bind(pod, pool, now_s)
        pod.reason = reason
        return pod

    # --- checks ---------------------------------------------------------------------------------------

    def check_invariants(self) -> None:
        self.memory.check_invariants()
        self.devices.check_invariants()
        self.moves.check_invariants()
        self.fleet.check_invariants()
        for pool in self.pools.values():
            is_short = self.short.get(pool.function_id) is pool
            assert is_short == bool(pool.short_reason), f"{pool.spec.label} waits for memory and is not on the list"
        assert self.short.keys() <= self.pools.keys(), "a removed function waits for memory"
