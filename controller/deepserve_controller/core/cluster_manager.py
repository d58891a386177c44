"""ClusterManager: owns the pods: starts them, binds them to functions, scales and stops them (DeepServe 2.4, 2.12)."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from deepserve.protocol.ids import IdAllocator
from deepserve.protocol.specs import FunctionSpec
from deepserve_controller.core import events
from deepserve_controller.core.actions import Action, Notify
from deepserve_controller.core.alarms import Alarms
from deepserve_controller.core.device import Device
from deepserve_controller.core.device_moves import LOOK_ALARM
from deepserve_controller.core.events import Event, Payload
from deepserve_controller.core.excess_pods import excess_pods
from deepserve_controller.core.function_pool import FunctionPool
from deepserve_controller.core.function_template import FunctionTemplate
from deepserve_controller.core.function_templates import IDLE_ALARM, START_ALARM, FunctionTemplates
from deepserve_controller.core.memory_views import ChooseParking, Parking
from deepserve_controller.core.placement_views import NOWHERE, PlaceEngine
from deepserve_controller.core.pod_failures import PodFailures
from deepserve_controller.core.pod_record import PodRecord
from deepserve_controller.core.pod_use import PodUse
from deepserve_controller.core.preload_views import NO_PRELOAD, KnownModel, Preload
from deepserve_controller.core.preloads import PRELOAD_ALARM, Preloads
from deepserve_controller.core.scaler import Scaler
from deepserve_controller.core.scaling_views import Autoscaler, Prewarm, ScalingDecision
from deepserve_controller.core.start_failures import Failure
from deepserve_controller.core.startup_views import Startup
from deepserve_controller.core.status_views import FunctionView, PodView
from deepserve_controller.core.template_views import ChooseSource

OWNER = "cluster_manager"


class ClusterManager:
    """Changed only through `handle`. Reads no clock and opens no socket.

    Starting pods count as pods, so demand is not answered twice. Up at once with demand, down when a review finds pods
    that the autoscaler does not want: first drained, then stopped. No more pods than the host's memory holds: what does
    not fit waits for room, which idle pods of other functions make. Every pod it started is expected to end with one
    PodLost or PodStartFailed.
    """

    def __init__(
        self,
        ids: IdAllocator,
        autoscaler: Autoscaler,
        prewarm: Prewarm,
        choose_source: ChooseSource,
        default_max_pods: int,
        stop_grace_s: float = 5.0,
        prewarmed: tuple[str, ...] = ("python",),
        usable_mib: int = 0,
        park: ChooseParking = lambda pod: Parking(0, "idle"),
        devices: tuple[Device, ...] = (),
        model_autoscaler: Autoscaler | None = None,
        place: PlaceEngine = lambda options, free: NOWHERE,
        preload: Preload = NO_PRELOAD,
    ) -> None:
        """`usable_mib`: memory of this host that pods may have, 0 without a bound. `devices`: its NPUs and GPUs."""
        self._default_max_pods = default_max_pods
        self._out: list[Action] = []
        self._alarms = Alarms(OWNER, self._out)
        self.templates = FunctionTemplates(ids, choose_source, self._alarms, self._out, self)
        self._scaler = Scaler(
            ids, autoscaler, model_autoscaler or autoscaler, prewarm, self._alarms, self._out, stop_grace_s,
            usable_mib, self.templates, prewarmed, park, devices, place,
        )  # fmt: skip
        self._fleet = self._scaler.fleet
        self.memory_need = self._scaler.memory_need
        self.startups = self._scaler.startups
        self.failures = PodFailures(self._scaler, self.templates, self._alarms, self._out)
        self._pods = self._scaler.pods
        self._pools = self._scaler.pools
        self._preloads = Preloads(self._pools, self.templates, self._scaler.memory, self._alarms, preload)
        self._handlers: dict[type[Event], Callable[[Any, float], None]] = {
            events.ControllerStarted: self._on_controller_started,
            events.FunctionDefined: self._on_function_defined,
            events.FunctionRemoved: self._on_function_removed,
            events.ScalingChanged: self._on_scaling_changed,
            events.DemandChanged: self._on_demand_changed,
            events.DemandRemembered: lambda event, now_s: self._preloads.learn(event.models, now_s),
            events.StartupsRemembered: lambda event, now_s: self.startups.learn(event.known),
            events.PodConnected: self._on_pod_connected,
            events.PodStartFailed: self.failures.on_pod_start_failed,
            events.ExecutorReady: self._on_executor_ready,
            events.ExecutorFailed: self.failures.on_executor_failed,
            events.PodLost: self._on_pod_lost,
            events.PodIdle: self._on_pod_idle,
            events.PodBusy: self._on_pod_busy,
            events.PodDrained: self._on_pod_drained,
            events.PodStuck: self._on_pod_stuck,
            events.WorkTold: self._scaler.moves.on_work_told,
            events.WeightsRead: self._on_weights_read,
            events.TimerFired: self._on_timer,
            **self.templates.handlers,
        }

    def handle(self, event: Event, now_s: float) -> list[Action]:
        handler = self._handlers.get(type(event))
        if handler is None:
            return []
        handler(event, now_s)
        self._scaler.settle(now_s)
        self.startups.settle(self._is_loading, now_s)
        actions = self._out.copy()
        self._out.clear()
        return actions

    def pods_view(self) -> list[PodView]:
        return [pod.view() for pod in self._pods.values()]

    def functions_view(self) -> list[FunctionView]:
        return [pool.view(self._fleet.num_draining(pool)) for pool in self._pools.values()]

    def function_view(self, function_id: str) -> FunctionView | None:
        pool = self._pools.get(function_id)
        return pool.view(self._fleet.num_draining(pool)) if pool is not None else None

    def why_never(self, spec: FunctionSpec) -> str:
        """Why no pod of it can ever start on this host; empty where one can."""
        return self._scaler.why_never(spec)

    def known_models(self, now_s: float) -> list[KnownModel]:
        """For `DemandRemembered` of a later controller."""
        return self._preloads.known(now_s)

    def memory_view(self) -> tuple[int, int]:
        """MiB that pods and templates have claimed of this host's memory, and what there is for them; 0: no bound."""
        return self._scaler.memory.used_mib(), self._scaler.memory.usable_mib

    def devices_view(self) -> list[tuple[Device, str]]:
        """Each NPU and GPU of the host, and the pod that holds it or nobody."""
        return list(self._scaler.devices.view())

    def cpu_shares(self, num_cores: int) -> dict[str, float]:
        """By pod that serves a function: how many of the host's cores it gets when all of them are busy."""
        weights = {name: pool.spec.resources.cpu for pool in self._pools.values() for name in pool.pods}
        total = sum(weights.values())
        return {name: min(float(num_cores), num_cores * weight / total) for name, weight in weights.items()}

    def startup_view(self, function_id: str, now_s: float) -> Startup | None:
        """What a start of a model is likely to take; None where nothing is known of that yet."""
        pool = self._pools.get(function_id)
        if pool is None or pool.spec.kind != "model":
            return None
        return self.startups.view(pool.spec, now_s, self.templates.use_of(pool))

    @property
    def num_device_moves(self) -> int:
        """Engines that were moved for others, or were to be."""
        return self._scaler.moves.num_begun

    def scaling_history(self, function_id: str) -> list[ScalingDecision]:
        """The last decisions about a function's pods, oldest first."""
        pool = self._pools.get(function_id)
        return list(pool.history) if pool is not None else []

    def pod_s(self, function_id: str, now_s: float) -> float:
        """Seconds of all pods of a function together, each from when it was meant for it until it is gone."""
        pool = self._pools.get(function_id)
        there = sum(now_s - pod.claimed_s for pod in self._pods.values() if pod.function_id == function_id)
        return pool.past_pod_s + there if pool is not None else 0.0

    # --- functions ------------------------------------------------------------------------------------

    def _on_controller_started(self, event: events.ControllerStarted, now_s: float) -> None:
        for environment in self._scaler.prewarmed:
            self._scaler.refill(environment, now_s)

    def _on_function_defined(self, event: events.FunctionDefined, now_s: float) -> None:
        pool = self._pools.get(event.function_id)
        self.startups.define(event.spec, event.weights_bytes)
        if pool is None:
            scaling = event.spec.scaling
            max_pods = self._max_pods(scaling.min_pods, scaling.max_pods)
            window_s = scaling.scaledown_window_s
            use = PodUse(max(window_s, self._scaler.autoscaler_of(event.spec).stable_window_s, 1.0), since_s=now_s)
            pool = FunctionPool(
                event.function_id, event.spec, scaling.min_pods, max_pods, scaling.buffer_pods, window_s,
                max(1, scaling.max_inputs), use, now_s, decided_s=now_s,
            )  # fmt: skip
            self._pools[event.function_id] = pool
        self._scaler.scale(pool, now_s)

    def _max_pods(self, min_pods: int, max_pods: int) -> int:
        return max(min_pods, max_pods or self._default_max_pods, 1)

    def _on_function_removed(self, event: events.FunctionRemoved, now_s: float) -> None:
        pool = self._pools.get(event.function_id)
        if pool is not None:
            self._fleet.give_up(pool, list(pool.pods.values()), f"{pool.spec.label} was removed", now_s)
            self._scaler.forget(pool)
            self.templates.forget(pool)
            self._preloads.forget(pool)
            self.startups.forget(pool.spec)
            self._scaler.memory.forget(pool.function_id)
            self._scaler.use_room(now_s)

    def _on_scaling_changed(self, event: events.ScalingChanged, now_s: float) -> None:
        pool = self._pools.get(event.function_id)
        if pool is None:
            return
        pool.min_pods = event.min_pods
        pool.max_pods = self._max_pods(event.min_pods, event.max_pods)
        if event.buffer_pods is not None:
            pool.buffer_pods = event.buffer_pods
        if event.window_s is not None:
            pool.set_window(event.window_s)
        pool.is_broken = False
        reason = f"at most {pool.max_pods} pods since the bounds changed"
        self._fleet.give_up(pool, excess_pods(pool), reason, now_s)
        if pool.review is not None:
            self._alarms.cancel(pool.review)
            pool.review = None
        self._scaler.scale(pool, now_s)

    def _on_demand_changed(self, event: events.DemandChanged, now_s: float) -> None:
        pool = self._pools.get(event.function_id)
        if pool is None:
            return
        was_in_use = pool.is_in_use
        pool.queued, pool.running, pool.tokens, pool.tokens_s = event.queued, event.running, event.tokens, now_s
        pool.note_use(now_s)
        if event.queued:
            pool.is_broken = False
            self._preloads.note_use(pool, now_s, was_in_use)
        self._scaler.scale(pool, now_s)

    # --- pods come up ---------------------------------------------------------------------------------

    def _on_pod_connected(self, event: events.PodConnected, now_s: float) -> None:
        pod = self._pods.get(event.pod_id)
        if pod is None or pod.state != "starting":
            return
        pod.pid = event.pid
        if pod.template_id:
            return self._join_bound(pod, now_s)
        self._scaler.warm.note_success(pod.environment)
        if not pod.function_id:
            self._swap_with_claimed(pod, now_s)
        pool = self._pools.get(pod.function_id)
        has_room = not self._scaler.short and self._scaler.warm.has_room(pod, now_s)
        pod.move("warm", now_s)
        if pool is not None:
            self._fleet.bind(pod, pool, now_s)
        elif not has_room:
            self._fleet.stop(pod, "the warm pool is full", now_s)

    def _join_bound(self, pod: PodRecord, now_s: float) -> None:
        """Forked from its function's template: only its own hooks are left to run."""
        pod.move("warm", now_s)
        if (pool := self._pools.get(pod.function_id)) is not None:
            pod.move("binding", now_s)
            self._fleet.must_be_ready(pod, now_s + pool.spec.startup_timeout_s)
        else:
            self._fleet.stop(pod, pod.reason, now_s)

    def _swap_with_claimed(self, pod: PodRecord, now_s: float) -> None:
        """The first pod to connect goes to who waits; the one started for that takes its place in the pool."""
        other = self._scaler.warm.find_claimed_like(pod)
        if other is not None and not self._scaler.moves.is_target(other.pod_id):
            pool, memory = self._pools[other.function_id], other.claim
            self._fleet.unclaim(other, pod.reason, now_s)
            self._fleet.claim(pod, pool, now_s, memory)

    def _on_executor_ready(self, event: events.ExecutorReady, now_s: float) -> None:
        pod = self._pods.get(event.pod_id)
        if pod is None or pod.state != "binding":
            return
        pool = self._pools[pod.function_id]
        self.startups.pod_ready(pod, pool.spec, event.weights, now_s)
        self._scaler.pod_ready(pod, pool, event, now_s)
        pool.note_ready(pod, max(1, event.slots), now_s)
        pod.idle_since_s = now_s
        self.templates.note_ready(pool, pod, event, now_s)
        self._scaler.moves.target_ready(pod, now_s)
        self._scaler.plan_review(pool, now_s)

    def _on_weights_read(self, event: events.WeightsRead, now_s: float) -> None:
        self.startups.weights_read(event.pod_id, event.read_ms, now_s)

    def _is_loading(self, load_id: str) -> bool:
        """A pod that does not end, or a template; it may be ready and still read."""
        pod = self._pods.get(load_id)
        if pod is None:
            return self.templates.is_loading_template(load_id)
        return bool(pod.function_id) and pod.state != "stopped"

    def _on_pod_lost(self, event: events.PodLost, now_s: float) -> None:
        self.failures.on_pod_lost(event, now_s)
        self._preloads.look(now_s)

    # --- templates of functions -----------------------------------------------------------------------

    def template_changed(self, pool: FunctionPool, now_s: float) -> None:
        self._scaler.repay(now_s)  # where it holds more than was assumed
        if self._pools.get(pool.function_id) is pool:
            self._scaler.scale(pool, now_s)
        self._scaler.use_room(now_s)
        self._scaler.refill(pool.spec.environment, now_s)
        self._preloads.look(now_s)

    def template_failed(self, template: FunctionTemplate, text: str, payload: Payload, now_s: float) -> None:
        pool = template.pool
        self.failures.mark_broken(pool, now_s, f"{pool.spec.label} could not be loaded: {text}")
        self._scaler.decide(pool, now_s)
        self._out.append(Notify(events.ExecutorFailed(template.template_id, pool.function_id, text, payload)))

    def template_lost(self, template: FunctionTemplate, failure: Failure, now_s: float) -> None:
        self.failures.note(template.pool, template.template_id, template.began_s, now_s, failure)

    # --- pods go down ---------------------------------------------------------------------------------

    def _on_pod_idle(self, event: events.PodIdle, now_s: float) -> None:
        """A warm call comes here: nothing but the pod's mark, unless memory is short."""
        pod = self._pods.get(event.pod_id)
        if pod is None or not pod.is_busy:
            return
        pool = self._pools.get(pod.function_id)
        if pool is None:
            pod.is_busy = False
            return
        pool.set_busy(pod, False, now_s)
        self._preloads.note_use(pool, now_s, was_in_use=True)
        if pod.state == "bound":
            pod.idle_since_s = now_s
            if pool.review is None:
                self._scaler.plan_review(pool, now_s)
            self._scaler.repay(now_s)
            if self._scaler.short:
                self._scaler.use_room(now_s)

    def _on_pod_busy(self, event: events.PodBusy, now_s: float) -> None:
        pod = self._pods.get(event.pod_id)
        if pod is None:
            return
        pool = self._pools.get(pod.function_id)
        if pool is None:
            pod.is_busy, pod.is_asleep = True, False
            return
        self._preloads.note_use(pool, now_s, pool.is_in_use)
        pool.set_busy(pod, True, now_s)
        if pod.is_asleep:
            self._scaler.wake(pod, now_s)
        if pool.buffer_pods and pod.state == "bound" and not pool.queued:
            # Calls routed at once report no demand, yet they eat the buffer. (Where tasks wait, DemandChanged follows.)
            pool.running = max(pool.running, pool.use.pods * pool.target)
            self._scaler.scale(pool, now_s)

    def _on_pod_drained(self, event: events.PodDrained, now_s: float) -> None:
        pod = self._pods.get(event.pod_id)
        if pod is not None and pod.state == "draining":
            self._fleet.stop(pod, pod.reason, now_s)

    def _on_pod_stuck(self, event: events.PodStuck, now_s: float) -> None:
        """The job executor has closed it already, and kills it; what is needed beside it is started now."""
        pod = self._pods.get(event.pod_id)
        pool = self._pools.get(pod.function_id) if pod is not None else None
        if pod is not None and pod.state == "bound" and pool is not None:
            before = len(pool.pods)
            self._fleet.close(pod, event.reason, now_s)
            self._fleet.record(pool, before, event.reason, now_s)
            self._scaler.scale(pool, now_s)

    # --- timers ---------------------------------------------------------------------------------------

    def _on_timer(self, event: events.TimerFired, now_s: float) -> None:
        for kind, subject in self._alarms.due(event.key, now_s):
            if kind == "retry" or (kind == LOOK_ALARM and subject.short_reason):
                self._scaler.scale(subject, now_s)
            elif kind == "review":
                self._scaler.review(subject, now_s)
            elif kind == PRELOAD_ALARM:
                self._preloads.look(now_s)
            elif kind in (START_ALARM, IDLE_ALARM):
                self.templates.alarm(kind, subject, now_s)
            elif kind == "warm pool":
                self._scaler.warm.tended.discard(subject)
                self._scaler.refill(subject, now_s)
            elif kind != LOOK_ALARM and subject.pod_id in self._pods:
                self._on_pod_alarm(kind, subject, now_s)

    def _on_pod_alarm(self, kind: str, pod: PodRecord, now_s: float) -> None:
        if kind == "drain":
            if pod.state == "draining":
                self._fleet.kill(pod, f"still busy {now_s - pod.since_s:.3g} s after: {pod.reason}", now_s)
        elif pod.state in ("starting", "binding") and now_s >= pod.ready_by_s:
            self.failures.end_slow_start(pod, now_s)

    # --- checks ---------------------------------------------------------------------------------------

    def check_invariants(self) -> None:
        self._alarms.check_invariants()
        self._scaler.check_invariants()
        self.startups.check_invariants(self._is_loading)
        self.templates.check_invariants(self._pods)
