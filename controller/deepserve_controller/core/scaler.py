"""Scaler: the cluster manager's half that decides how many pods each function has, and what has room on the host.

It hears of no event: the cluster manager, the other half, says when to look. What it decides is done by the fleet.
"""

from __future__ import annotations

from deepserve.protocol.ids import IdAllocator
from deepserve.protocol.messages import PodMemory
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
from deepserve_controller.core.host_memory import TURN_S, HostMemory
from deepserve_controller.core.memory_claims import MemoryClaim, NeedView, mebibytes
from deepserve_controller.core.memory_views import ChooseParking
from deepserve_controller.core.placement_views import NOWHERE, PlaceEngine
from deepserve_controller.core.pod_record import PodRecord
from deepserve_controller.core.scaling_views import Autoscaler, Prewarm
from deepserve_controller.core.start_failures import START_BACKOFF_S
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
        self.memory = HostMemory(self.pods, usable_mib, templates, park)
        self.devices = HostDevices(self.pods, devices)
        self.startups = templates.startups = StartupBook(self.devices, usable_mib)
        self.fleet = Fleet(
            self.pods, self.pools, ids, alarms, out, stop_grace_s, self.devices, self.startups, templates
        )  # fmt: skip
        self._templates = templates
        templates.may_hold_devices = self.devices.may_hold
        templates.without_devices = self.devices.without_devices
        templates.has_room = self._has_template_room
        templates.told = self._template_told
        templates.handlers[events.WeightsFound] = self._on_weights_found
        templates.most_weights_mib = self.memory.most_weights_mib
        self.moves = DeviceMoves(self, self.devices, self.startups, alarms, out, place)
        self.short: dict[str, FunctionPool] = {}
        """Functions that wait for memory or devices, the longest waiting first."""
        self._taken_mib: dict[str, int] = {}
        """Of each of them: what was taken of the memory when it was last found to be too little."""

    def autoscaler_of(self, spec: FunctionSpec) -> Autoscaler:
        return self._model_autoscaler if spec.kind == "model" else self._autoscaler

    # --- how many --------------------------------------------------------------------------------------

    def scale(self, pool: FunctionPool, now_s: float) -> None:
        """Start what is missing. What is too much is found by a review."""
        self.decide(pool, now_s)
        before = len(pool.pods)
        missing = pool.wanted.pods - pool.num_pods
        if missing > 0 and not (pool.is_broken or pool.is_removed or now_s < pool.failures.retry_s):
            if not (why_never := self._why_never(pool)):
                self._start_missing(pool, missing, now_s)
            else:
                self._refuse(pool, why_never, now_s)
        elif pool.short_reason:
            self._note_short(pool, False, now_s)
        if len(pool.pods) != before:
            self.fleet.record(pool, before, pool.wanted.reason, now_s)
        self.plan_review(pool, now_s)

    def _refuse(self, pool: FunctionPool, why_never: str, now_s: float) -> None:
        """Who waits is told. Some leave only when what runs for them has stopped: they are told again, not at once."""
        pool.broken_because = why_never
        self._forget_short(pool)
        if self._templates.is_unused(pool):
            self._templates.give_up(pool, why_never)
        if pool.queued:
            pool.is_broken, pool.queued = True, 0
            pool.failures.retry_s = now_s + START_BACKOFF_S
            self._alarms.set(pool.failures.retry_s, "retry", pool)
            self._out.append(Notify(events.ExecutorFailed("", pool.function_id, why_never, is_refused=True)))

    def _start_missing(self, pool: FunctionPool, missing: int, now_s: float) -> None:
        """As many as there is room for; others are asked for what the rest needs."""
        source = self._templates.source(pool, missing, now_s)
        if source.is_template_wanted and not source.pods and not self._templates.is_loading(pool):
            if self._ask_for_template_room(pool, now_s):
                source = self._templates.source(pool, missing, now_s)
            if not self._templates.is_loading(pool):
                return self._note_short(pool, True, now_s)
        missing = source.pods  # the others wait for the function's template
        while missing > 0 and self._add_pod(pool, now_s, source.template_id):
            missing -= 1
        if missing > 0 and self._ask_for_room(pool, missing, now_s):
            while missing > 0 and self._add_pod(pool, now_s, source.template_id):
                missing -= 1
        if missing < source.pods:
            self._forget_short(pool)  # who was served goes to the end of the line
        self._note_short(pool, missing > 0, now_s)

    def why_never(self, spec: FunctionSpec) -> str:
        """Why not even one pod of `spec` can start here, as far as its options say; empty where one can."""
        return self.memory.never_fits(spec) or self.devices.never_fits(spec)

    def _why_never(self, pool: FunctionPool) -> str:
        """The same, with what is known of its pods; of those that are there it is known that they fit."""
        if pool.pods or not self.memory.usable_mib:
            return self.why_never(pool.spec)
        shared_mib = self.memory.template_mib(pool) if self._templates.is_bound_to_one(pool) else 0
        need = self.memory.need(pool)
        return self.memory.never_fits(pool.spec, need, shared_mib) or self.devices.never_fits(pool.spec)

    def decide(self, pool: FunctionPool, now_s: float) -> None:
        autoscaler = self.autoscaler_of(pool.spec)
        start_s = self.startups.soonest_s(pool.spec, now_s, self._templates.use_of(pool))
        pool.wanted = autoscaler.decide(pool.load(autoscaler, start_s, now_s), now_s)
        pool.decided_s = now_s
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
            if (claim := self.memory.claim(pool, True, self.memory.claimed_mib(pod))) is None:
                return False
            self.fleet.claim(pod, pool, now_s, claim)
            self.fleet.bind(pod, pool, now_s)
            self.warm.note_taken(environment, now_s)
            self.refill(environment, now_s)
        elif (claim := self._claim(pool, now_s, template_id)) is not None:
            pod = self.fleet.start(environment, memory_mib, pool.wanted.reason, now_s, template_id, claim)
            self.fleet.claim(pod, pool, now_s, claim)
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
            if self.short or self.memory.missing_mib(self.memory.need_mib(environment, 0)) > 0:
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

    def _claim(self, pool: FunctionPool, now_s: float, template_id: str) -> MemoryClaim | None:
        """Of one more pod of it, after those who have no pod at all; templates that nobody uses make room at once.
        None where there is too little."""
        if self._yields(pool):
            return None
        is_own_load = not template_id
        if self.memory.usable_mib and (unused_mib := self._templates.unused_mib(pool, self.memory.process_mib)):
            wanted_mib = self.memory.wanted_mib(pool, is_own_load, unused_mib)
            self._templates.give_up_unused(pool, lambda: self.memory.missing_mib(wanted_mib), now_s)
        return self.memory.claim(pool, is_own_load)

    def memory_need(self, function_id: str) -> NeedView:
        """Of its pods, and of what they share."""
        pool = self.pools[function_id]
        is_held = self._templates.has(pool.function_id)
        weights_mib = self._templates.weights_mib(pool) if is_held else self.memory.own_weights_mib(pool.function_id)
        need = self.memory.need(pool)
        return NeedView(need.base_mib, need.least_kv_mib, need.kv_mib, weights_mib)

    def _template_told(self, pool: FunctionPool, memory: PodMemory) -> None:
        self.memory.claims.learn(pool.function_id, pool.spec.environment, memory)
        self.memory.note_overdrawn()

    def _on_weights_found(self, event: events.WeightsFound, now_s: float) -> None:
        """Who is idle gives its memory while they are fetched."""
        self._templates.note_size(event)
        self.memory.note_overdrawn()
        self.repay(now_s)

    def pod_ready(self, pod: PodRecord, pool: FunctionPool, event: events.ExecutorReady, now_s: float) -> None:
        """It may turn out to be idle when what waits for it was sent, and be asked for its memory then."""
        self._pod_told(pod, pool, event)
        for waiting in self.short.values():
            self._alarms.set(now_s, "retry", waiting)

    def _pod_told(self, pod: PodRecord, pool: FunctionPool, event: events.ExecutorReady) -> None:
        """It is loaded: what it claims is what it has taken, where it was the first to know."""
        memory, claims = event.memory, self.memory.claims
        if pool.spec.kind != "model" or pool.spec.resources.memory_mib or not memory.kv_bytes:
            return
        if not claims.knows(pool.function_id):
            claims.learn(pool.function_id, pool.spec.environment, memory)
        told_mib, given_mib = mebibytes(memory.kv_bytes), pod.claim.kv_mib if pod.claim is not None else 0
        base_mib = claims.need(pool.function_id, pool.spec).base_mib
        pod.claim = MemoryClaim(base_mib, min(told_mib, given_mib or told_mib))
        if not pod.template_id:
            self.memory.note_weights(pool.function_id, event.weights.size_bytes >> 20)
        self.memory.note_overdrawn()

    def _ask_for_room(self, pool: FunctionPool, num_pods: int, now_s: float) -> bool:
        """Let others give up what so many more pods of `pool` need: they start when it is free. True where some sleep,
        which makes room at once."""
        if self.devices.choose(pool.spec) is None:
            if not self.give_devices(pool, is_busy_too=False, now_s=now_s):
                self.moves.want(pool, now_s)
            return False
        missing_mib = self.memory.missing_mib(num_pods * self.memory.need(pool).least_mib)
        return self._make_room(pool, missing_mib, now_s)

    def _ask_for_template_room(self, pool: FunctionPool, now_s: float) -> bool:
        """The same for its template and a pod of it."""
        needed_mib = self._template_and_pod_mib(pool)
        self._templates.give_up_unused(pool, lambda: self.memory.missing_mib(needed_mib), now_s)
        if (missing_mib := self.memory.missing_mib(needed_mib)) <= 0:
            return True
        return self._make_room(pool, missing_mib, now_s)

    def give_devices(self, pool: FunctionPool, is_busy_too: bool, now_s: float) -> bool:
        """Let others end that have what a pod of `pool` needs; False where there are none."""
        givers = self.devices.givers(pool, self.pools, is_busy_too)
        for pod in givers:
            self.fleet.give_up(self.pools[pod.function_id], [pod], f"gives its devices to {pool.spec.label}", now_s)
        return bool(givers)

    def _make_room(self, asking: FunctionPool | None, missing_mib: int, now_s: float) -> bool:
        """For a pod of `asking`, or for who was woken, beside what leaves already. True where some sleep."""
        reason = f"gives its memory to {asking.spec.label if asking is not None else 'who was woken'}"
        missing_mib -= self.memory.leaving_mib()
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
        self.memory.note_overdrawn()
        self.repay(now_s)

    def repay(self, now_s: float) -> None:
        """While woken pods have more than there is, let idle ones give theirs."""
        if (missing_mib := self.memory.overdrawn_mib) > 0:
            self._make_room(None, missing_mib, now_s)

    def _yields(self, pool: FunctionPool) -> bool:
        """Room goes first to who waits for it and has no pod at all."""
        return bool(pool.pods) and any(not other.pods for other in self.short.values())

    def _has_template_room(self, pool: FunctionPool) -> bool:
        """For a template and a pod of it; without a snapshot it is a luxury, for which nobody is to wait."""
        needed_mib = self._template_and_pod_mib(pool)
        if self.memory.missing_mib(needed_mib) > 0:
            return False
        return pool.spec.is_shared or not self.short

    def _note_short(self, pool: FunctionPool, is_short: bool, now_s: float) -> None:
        if not is_short:
            return self._forget_short(pool)
        was_short = bool(pool.short_reason)
        self.short[pool.function_id] = pool
        self._taken_mib[pool.function_id] = self.memory.used_mib()
        pool.short_reason = self.devices.short_reason(pool.spec) or self._short_of_memory(pool)
        if plan := self.moves.reason(pool):
            pool.short_reason = f"{pool.short_reason}; {plan}"
        if not was_short:
            pool.short_s = now_s
            self._alarms.set(now_s + TURN_S, "retry", pool)
            self.fleet.record(pool, len(pool.pods), f"{pool.wanted.reason}; {pool.short_reason}", now_s)

    def _short_of_memory(self, pool: FunctionPool) -> str:
        if self._templates.is_bound_to_one(pool) and not self._templates.has(pool.function_id):
            return self.memory.short_reason("a template and a pod", self._template_and_pod_mib(pool))
        return self.memory.short_reason("a pod", self.memory.need(pool).least_mib)

    def _template_and_pod_mib(self, pool: FunctionPool) -> int:
        """That its first pod needs at least."""
        return self.memory.template_mib(pool) + self.memory.need(pool).least_mib

    def forget(self, pool: FunctionPool) -> None:
        """The function was removed and its pods were given up."""
        pool.is_removed = True
        del self.pools[pool.function_id]
        self._forget_short(pool)

    def _forget_short(self, pool: FunctionPool) -> None:
        self.short.pop(pool.function_id, None)
        self._taken_mib.pop(pool.function_id, None)
        pool.short_reason = ""

    def settle(self, now_s: float) -> None:
        """After each event: whatever made memory free (a template failed, or what was loaded took less than was
        assumed), who waits for some hears of it. Often no later event would tell."""
        while self.memory.usable_mib and self.short and self.memory.used_mib() < max(self._taken_mib.values()):
            self.use_room(now_s)
        self.moves.settle(now_s)

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
        freed_mib = self.memory.claimed_mib(pod) if pod is not None else 0
        if (claim := self.memory.claim(pool, True, freed_mib)) is None:
            return None
        if pod is None:
            pod = self.fleet.start(spec.environment, spec.resources.memory_mib, reason, now_s)
            self.fleet.claim(pod, pool, now_s, claim, place)
        else:
            self.fleet.claim(pod, pool, now_s, claim, place)
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
