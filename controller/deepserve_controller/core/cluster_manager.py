"""ClusterManager: owns the pods: starts them, binds them to functions, scales and stops them (DeepServe 2.4, 2.12)."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from deepserve.protocol.ids import IdAllocator
from deepserve_controller.core import events
from deepserve_controller.core.actions import Action, BindPod, KillPod, Notify, StartPod, StopPod
from deepserve_controller.core.alarms import Alarms
from deepserve_controller.core.endings import exit_text
from deepserve_controller.core.events import Event
from deepserve_controller.core.function_pool import Failure, FunctionPool
from deepserve_controller.core.pod_record import PodRecord, PodState
from deepserve_controller.core.views import Autoscaler, FunctionView, PodView, Prewarm
from deepserve_controller.core.warm_pool import WarmPool

OWNER = "cluster_manager"
WARM_START_TIMEOUT_S = 120.0
"""For pods of the warm pool, which have no function with a `startup_timeout_s`."""


class ClusterManager:
    """Changed only through `handle`. Reads no clock and opens no socket.

    Starting pods count as pods, so demand is not answered twice. Up at once with demand, down one idle pod at a time,
    each after it was idle for the function's `scaledown_window_s`. Every pod it started is expected to end with one
    PodLost or PodStartFailed.
    """

    def __init__(
        self,
        ids: IdAllocator,
        autoscaler: Autoscaler,
        prewarm: Prewarm,
        default_max_pods: int,
        stop_grace_s: float = 5.0,
        prewarmed: tuple[str, ...] = ("python",),
    ) -> None:
        self._ids = ids
        self._autoscale = autoscaler
        self._default_max_pods = default_max_pods
        self._stop_grace_s = stop_grace_s
        self._prewarmed = prewarmed
        self._out: list[Action] = []
        self._alarms = Alarms(OWNER, self._out)
        self._pods: dict[str, PodRecord] = {}
        self._pools: dict[str, FunctionPool] = {}
        self._warm = WarmPool(self._pods, prewarm)
        self._handlers: dict[type[Event], Callable[[Any, float], None]] = {
            events.ControllerStarted: self._on_controller_started,
            events.FunctionDefined: self._on_function_defined,
            events.FunctionRemoved: self._on_function_removed,
            events.ScalingChanged: self._on_scaling_changed,
            events.DemandChanged: self._on_demand_changed,
            events.PodConnected: self._on_pod_connected,
            events.PodStartFailed: self._on_pod_start_failed,
            events.ExecutorReady: self._on_executor_ready,
            events.ExecutorFailed: self._on_executor_failed,
            events.PodLost: self._on_pod_lost,
            events.PodIdle: self._on_pod_idle,
            events.PodBusy: self._on_pod_busy,
            events.PodDrained: self._on_pod_drained,
            events.PodStuck: self._on_pod_stuck,
            events.TimerFired: self._on_timer,
        }

    def handle(self, event: Event, now_s: float) -> list[Action]:
        handler = self._handlers.get(type(event))
        if handler is None:
            return []
        handler(event, now_s)
        actions = self._out.copy()
        self._out.clear()
        return actions

    def pods_view(self) -> list[PodView]:
        return [pod.view() for pod in self._pods.values()]

    def functions_view(self) -> list[FunctionView]:
        return [pool.view() for pool in self._pools.values()]

    # --- functions ------------------------------------------------------------------------------------

    def _on_controller_started(self, event: events.ControllerStarted, now_s: float) -> None:
        for environment in self._prewarmed:
            self._refill(environment, now_s)

    def _on_function_defined(self, event: events.FunctionDefined, now_s: float) -> None:
        pool = self._pools.get(event.function_id)
        if pool is None:
            scaling = event.spec.scaling
            max_pods = self._max_pods(scaling.min_pods, scaling.max_pods)
            slots = max(1, scaling.max_inputs)
            pool = FunctionPool(event.function_id, event.spec, scaling.min_pods, max_pods, slots)
            self._pools[event.function_id] = pool
        self._scale(pool, now_s)

    def _max_pods(self, min_pods: int, max_pods: int) -> int:
        return max(min_pods, max_pods or self._default_max_pods, 1)

    def _on_function_removed(self, event: events.FunctionRemoved, now_s: float) -> None:
        pool = self._pools.get(event.function_id)
        if pool is not None:
            for pod in list(pool.pods.values()):
                self._give_up(pod, f"{pool.spec.label} was removed", now_s)
            pool.is_removed = True
            del self._pools[pool.function_id]

    def _on_scaling_changed(self, event: events.ScalingChanged, now_s: float) -> None:
        pool = self._pools.get(event.function_id)
        if pool is None:
            return
        pool.min_pods = event.min_pods
        pool.max_pods = self._max_pods(event.min_pods, event.max_pods)
        pool.is_broken = False
        for pod in pool.excess_pods():
            self._give_up(pod, f"at most {pool.max_pods} pods since the bounds changed", now_s)
        self._scale(pool, now_s)

    def _on_demand_changed(self, event: events.DemandChanged, now_s: float) -> None:
        pool = self._pools.get(event.function_id)
        if pool is None:
            return
        pool.queued, pool.running = event.queued, event.running
        if event.queued:
            pool.is_broken = False
        self._scale(pool, now_s)

    # --- scaling --------------------------------------------------------------------------------------

    def _scale(self, pool: FunctionPool, now_s: float) -> None:
        """Start what is missing. Too many pods are no matter here: they fall idle and their window runs."""
        pool.wanted = self._autoscale(pool.load())
        if pool.is_broken or pool.is_removed or now_s < pool.retry_s:
            return
        for _ in range(pool.wanted.pods - len(pool.pods)):
            self._add_pod(pool, now_s)

    def _add_pod(self, pool: FunctionPool, now_s: float) -> None:
        """Bind a warm pod, or start one that is bound when it connects."""
        spec = pool.spec
        pod = self._warm.find(spec)
        if pod is None:
            pod = self._start(spec.environment, spec.resources.memory_mib, pool.wanted.reason, now_s)
            self._claim(pod, pool, now_s)
        else:
            self._bind(pod, pool, now_s)
            self._refill(spec.environment, now_s)

    def _start(self, environment: str, memory_mib: int, reason: str, now_s: float) -> PodRecord:
        pod_id = self._ids.new("pod")
        pod = PodRecord(pod_id, environment, memory_mib, "", "", reason, now_s, now_s)
        self._pods[pod_id] = pod
        self._out.append(StartPod(pod_id, environment, memory_mib, reason))
        return pod

    def _claim(self, pod: PodRecord, pool: FunctionPool, now_s: float) -> None:
        """`pod` is meant for `pool` from now on and has that function's `startup_timeout_s` to get ready."""
        pod.function_id, pod.label, pod.reason = pool.function_id, pool.spec.label, pool.wanted.reason
        pool.pods[pod.pod_id] = pod
        self._must_be_ready(pod, now_s + pool.spec.startup_timeout_s)

    def _must_be_ready(self, pod: PodRecord, by_s: float) -> None:
        pod.ready_by_s = by_s
        self._alarms.set(by_s, "start", pod)

    def _bind(self, pod: PodRecord, pool: FunctionPool, now_s: float) -> None:
        if pod.pod_id not in pool.pods:  # else its clock runs since it was started for this function
            self._claim(pod, pool, now_s)
        pod.move("binding", now_s)
        self._out.append(BindPod(pod.pod_id, pool.function_id, pool.spec, pod.reason))

    def _refill(self, environment: str, now_s: float) -> None:
        """Bring the warm pool of `environment` to what the prewarm policy wants."""
        missing = self._warm.missing(environment)
        for _ in range(missing.pods):
            self._must_be_ready(self._start(environment, 0, missing.reason, now_s), now_s + WARM_START_TIMEOUT_S)

    # --- pods come up ---------------------------------------------------------------------------------

    def _on_pod_connected(self, event: events.PodConnected, now_s: float) -> None:
        pod = self._pods.get(event.pod_id)
        if pod is None or pod.state != "starting":
            return
        pod.pid = event.pid
        self._warm.note_success(pod.environment)
        if not pod.function_id:
            self._swap_with_claimed(pod, now_s)
        pool = self._pools.get(pod.function_id)
        has_room = self._warm.has_room(pod)
        pod.move("warm", now_s)
        if pool is not None:
            self._bind(pod, pool, now_s)
        elif not has_room:
            self._stop(pod, "the warm pool is full", now_s)

    def _swap_with_claimed(self, pod: PodRecord, now_s: float) -> None:
        """The first pod to connect goes to who waits; the one started for that takes its place in the pool."""
        other = self._warm.find_claimed_like(pod)
        if other is not None:
            pool = self._pools[other.function_id]
            self._unclaim(other, pod.reason)
            self._claim(pod, pool, now_s)

    def _unclaim(self, pod: PodRecord, reason: str) -> None:
        del self._pools[pod.function_id].pods[pod.pod_id]
        pod.function_id, pod.label, pod.reason = "", "", reason
        self._must_be_ready(pod, pod.started_s + WARM_START_TIMEOUT_S)

    def _on_executor_ready(self, event: events.ExecutorReady, now_s: float) -> None:
        pod = self._pods.get(event.pod_id)
        if pod is None or pod.state != "binding":
            return
        pool = self._pools[pod.function_id]
        pod.move("bound", now_s)
        pod.slots = pool.slots = max(1, event.slots)
        pool.num_failures, pool.retry_s = 0, 0.0
        if not pod.is_busy:
            self._fall_idle(pod, pool, now_s)

    # --- pods fail ------------------------------------------------------------------------------------

    def _on_pod_start_failed(self, event: events.PodStartFailed, now_s: float) -> None:
        pod = self._pods.get(event.pod_id)
        if pod is not None:
            self._remove(pod, f"could not start: {event.text}", now_s)

    def _on_pod_lost(self, event: events.PodLost, now_s: float) -> None:
        pod = self._pods.get(event.pod_id)
        if pod is not None:
            self._remove(pod, exit_text(event.exit_code, event.reason), now_s)

    def _remove(self, pod: PodRecord, text: str, now_s: float) -> None:
        del self._pods[pod.pod_id]
        failure = Failure("ended", f"{pod.pod_id} ended while {pod.doing}: {text}")
        self._replace(pod, pod.state, pod.since_s, now_s, failure)

    def _replace(self, pod: PodRecord, state: PodState, began_s: float, now_s: float, failure: Failure) -> None:
        """`pod`, in `state` since `began_s`, is gone or given up: start another where one is still needed."""
        pool = self._pools.get(pod.function_id)
        if pool is None:
            if state == "starting" or state == "warm":
                self._warm.note_failure(pod.environment)
                self._refill(pod.environment, now_s)
            return
        pool.pods.pop(pod.pod_id, None)
        if state == "starting" or state == "binding":
            self._note_failure(pool, pod, began_s, now_s, failure)
        self._scale(pool, now_s)

    def _note_failure(self, pool: FunctionPool, pod: PodRecord, began_s: float, now_s: float, failure: Failure) -> None:
        """Try again a bounded number of times. Pods started together that fail together count once."""
        if began_s <= pool.failed_s or pool.is_removed:
            return
        if pool.note_failure(now_s, failure):
            self._alarms.set(pool.retry_s, "retry", pool)
        else:
            text = pool.epitaph(failure)
            self._mark_broken(pool, now_s, text)
            is_slow = failure.kind != "ended"
            self._out.append(Notify(events.ExecutorFailed(pod.pod_id, pool.function_id, text, is_slow=is_slow)))

    def _mark_broken(self, pool: FunctionPool, now_s: float, text: str) -> None:
        """Nothing more is started for what waits now: it is about to be told `text`."""
        pool.is_broken = True
        pool.queued = 0
        for pod in list(pool.pods.values()):
            if pod.state != "bound":
                self._give_up(pod, text, now_s)

    def _on_executor_failed(self, event: events.ExecutorFailed, now_s: float) -> None:
        pod = self._pods.get(event.pod_id)
        if pod is None or pod.state != "binding":
            return
        pool = self._pools[pod.function_id]
        self._mark_broken(pool, now_s, f"{pool.spec.label} could not be loaded: {event.text}")
        pool.wanted = self._autoscale(pool.load())

    # --- pods go down ---------------------------------------------------------------------------------

    def _on_pod_idle(self, event: events.PodIdle, now_s: float) -> None:
        pod = self._pods.get(event.pod_id)
        if pod is None or not pod.is_busy:
            return
        pod.is_busy = False
        pool = self._pools.get(pod.function_id)
        if pool is not None and pod.state == "bound":
            self._fall_idle(pod, pool, now_s)

    def _fall_idle(self, pod: PodRecord, pool: FunctionPool, now_s: float) -> None:
        """Its window runs. One alarm serves all idle times of a pod: a warm call must not set one each time."""
        pod.idle_since_s = now_s
        if not pod.has_idle_alarm:
            pod.has_idle_alarm = True
            self._alarms.set(now_s + pool.spec.scaling.scaledown_window_s, "idle", pod)

    def _on_pod_busy(self, event: events.PodBusy, now_s: float) -> None:
        pod = self._pods.get(event.pod_id)
        if pod is None:
            return
        pod.is_busy = True
        pool = self._pools.get(pod.function_id)
        if pool is not None and pool.spec.scaling.buffer_pods and pod.state == "bound" and not pool.queued:
            # Calls routed at once report no demand, yet they eat the buffer. (Where tasks wait, DemandChanged follows.)
            pool.running = max(pool.running, sum(other.slots for other in pool.pods.values() if other.is_busy))
            self._scale(pool, now_s)

    def _end_window(self, pod: PodRecord, now_s: float) -> None:
        """The pod may have been idle for its window: stop it unless it is wanted."""
        pod.has_idle_alarm = False
        pool = self._pools.get(pod.function_id)
        if pod.state != "bound" or pod.is_busy or pool is None:
            return
        window_s = pool.spec.scaling.scaledown_window_s
        if now_s < pod.idle_since_s + window_s:
            pod.has_idle_alarm = True
            self._alarms.set(pod.idle_since_s + window_s, "idle", pod)
            return
        pool.wanted = self._autoscale(pool.load())
        if len(pool.pods) > pool.wanted.pods:
            self._drain(pod, f"idle for {window_s:g} s; {pool.wanted.reason}", now_s)
        else:
            pod.has_idle_alarm = True
            self._alarms.set(now_s + max(1.0, window_s), "idle", pod)

    def _give_up(self, pod: PodRecord, reason: str, now_s: float) -> None:
        """Take the pod from its function: drain a bound one, end one that binds, keep one that starts for the pool."""
        if pod.state == "bound":
            self._drain(pod, reason, now_s)
        elif pod.state == "binding":
            self._pools[pod.function_id].pods.pop(pod.pod_id, None)
            pod.move("stopped", now_s, reason)
            self._out.append(Notify(events.PodDrainStarted(pod.pod_id)))
            self._out.append(KillPod(pod.pod_id, reason))
        elif pod.state == "starting":
            self._unclaim(pod, reason)

    def _drain(self, pod: PodRecord, reason: str, now_s: float) -> None:
        del self._pools[pod.function_id].pods[pod.pod_id]
        pod.move("draining", now_s, reason)
        self._out.append(Notify(events.PodDrainStarted(pod.pod_id)))

    def _on_pod_drained(self, event: events.PodDrained, now_s: float) -> None:
        pod = self._pods.get(event.pod_id)
        if pod is not None and pod.state == "draining":
            self._stop(pod, pod.reason, now_s)

    def _on_pod_stuck(self, event: events.PodStuck, now_s: float) -> None:
        """The job executor has closed it already, and kills it; what is needed beside it is started now."""
        pod = self._pods.get(event.pod_id)
        pool = self._pools.get(pod.function_id) if pod is not None else None
        if pod is not None and pod.state == "bound" and pool is not None:
            del pool.pods[pod.pod_id]
            pod.move("draining", now_s, event.reason)
            self._scale(pool, now_s)

    def _stop(self, pod: PodRecord, reason: str, now_s: float) -> None:
        pod.move("stopped", now_s, reason)
        self._out.append(StopPod(pod.pod_id, reason, self._stop_grace_s))

    # --- timers ---------------------------------------------------------------------------------------

    def _on_timer(self, event: events.TimerFired, now_s: float) -> None:
        for kind, subject in self._alarms.due(event.key, now_s):
            if kind == "retry":
                self._scale(subject, now_s)
                continue
            pod: PodRecord = subject
            if self._pods.get(pod.pod_id) is not pod:
                continue
            if kind == "idle":
                self._end_window(pod, now_s)
            elif pod.state in ("starting", "binding") and now_s >= pod.ready_by_s:
                self._end_slow_start(pod, now_s)

    def _end_slow_start(self, pod: PodRecord, now_s: float) -> None:
        state, began_s = pod.state, pod.since_s
        text = f"{pod.pod_id} was still {pod.doing} after {now_s - began_s:.3g} s"
        pod.move("stopped", now_s, text)
        self._out.append(Notify(events.PodDrainStarted(pod.pod_id)))
        self._out.append(KillPod(pod.pod_id, text))
        self._replace(
            pod, state, began_s, now_s, Failure("loads slowly" if state == "binding" else "starts slowly", text)
        )

    # --- checks ---------------------------------------------------------------------------------------

    def check_invariants(self) -> None:
        self._alarms.check_invariants()
        for pod in self._pods.values():
            pod.check_invariants()
            if pod.state in ("binding", "bound"):
                pool = self._pools.get(pod.function_id)
                assert pool and pod.pod_id in pool.pods, f"{pod.pod_id} is {pod.state} but in no function's pool"
        for pool in self._pools.values():
            pool.check_invariants()
            for pod_id, pod in pool.pods.items():
                assert self._pods.get(pod_id) is pod, f"{pool.spec.label} keeps the lost {pod_id}"
