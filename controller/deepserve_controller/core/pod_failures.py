"""PodFailures: pods that are gone, or do not get ready in time: what is started in their place, and what is told."""

from __future__ import annotations

from deepserve_controller.core import events
from deepserve_controller.core.actions import Action, Notify
from deepserve_controller.core.alarms import Alarms
from deepserve_controller.core.endings import exit_text
from deepserve_controller.core.function_pool import FunctionPool
from deepserve_controller.core.function_templates import FunctionTemplates
from deepserve_controller.core.pod_record import PodRecord, PodState
from deepserve_controller.core.scaler import Scaler
from deepserve_controller.core.start_failures import Failure


class PodFailures:
    """A part of the cluster manager. What fails is tried again a bounded number of times; what repeats is told to who
    waits for it."""

    def __init__(self, scaler: Scaler, templates: FunctionTemplates, alarms: Alarms, out: list[Action]) -> None:
        self._scaler = scaler
        self._fleet = scaler.fleet
        self._templates = templates
        self._alarms = alarms
        self._out = out
        self._pods = scaler.pods
        self._pools = scaler.pools

    def on_pod_start_failed(self, event: events.PodStartFailed, now_s: float) -> None:
        pod = self._pods.get(event.pod_id)
        if pod is not None:
            self._remove(pod, f"could not start: {event.text}", now_s)

    def on_pod_lost(self, event: events.PodLost, now_s: float) -> None:
        pod = self._pods.get(event.pod_id)
        if pod is not None:
            self._remove(pod, exit_text(event.exit_code, event.reason), now_s)

    def on_executor_failed(self, event: events.ExecutorFailed, now_s: float) -> None:
        pod = self._pods.get(event.pod_id)
        if pod is None or pod.state != "binding":
            return
        if self._scaler.moves.is_target(pod.pod_id):
            text = f"{pod.label} could not be loaded there: {event.text}"
            self._fleet.end(pod, text, now_s)
            return self._replace(pod, "binding", now_s, now_s, Failure("ended", text))
        pool = self._pools[pod.function_id]
        self.mark_broken(pool, now_s, f"{pool.spec.label} could not be loaded: {event.text}")
        self._scaler.decide(pool, now_s)

    def end_slow_start(self, pod: PodRecord, now_s: float) -> None:
        state, began_s = pod.state, pod.since_s
        text = f"{pod.pod_id} was still {pod.doing} after {now_s - began_s:.3g} s"
        self._fleet.end(pod, text, now_s)
        if state == "starting":
            self._templates.distrust(pod)
        kind = Failure("loads slowly" if state == "binding" else "starts slowly", text)
        self._replace(pod, state, began_s, now_s, kind)

    def note(self, pool: FunctionPool, pod_id: str, began_s: float, now_s: float, failure: Failure) -> None:
        """Try again a bounded number of times. Pods started together that fail together count once."""
        if began_s <= pool.failures.last_s or pool.is_removed:
            return
        if pool.failures.note(now_s, failure):
            self._alarms.set(pool.failures.retry_s, "retry", pool)
        else:
            text = pool.failures.epitaph(failure, pool.spec.startup_timeout_s)
            self.mark_broken(pool, now_s, text)
            is_slow = failure.kind != "ended"
            self._out.append(Notify(events.ExecutorFailed(pod_id, pool.function_id, text, is_slow=is_slow)))

    def mark_broken(self, pool: FunctionPool, now_s: float, text: str) -> None:
        """Nothing more is started for what waits now: it is about to be told `text`."""
        pool.is_broken, pool.broken_because = True, text
        pool.queued = 0
        self._templates.drop_loading(pool, text)
        self._fleet.give_up(pool, [pod for pod in pool.pods.values() if pod.state != "bound"], text, now_s)

    # --- inside ---------------------------------------------------------------------------------------

    def _remove(self, pod: PodRecord, text: str, now_s: float) -> None:
        del self._pods[pod.pod_id]
        if pod.drain_alarm is not None:
            self._alarms.cancel(pod.drain_alarm)
        failure = Failure("ended", f"{pod.pod_id} ended while {pod.doing}: {text}")
        if (pool := self._pools.get(pod.function_id)) is not None:
            pool.note_gone(pod, now_s)
        self._templates.note_gone(pod, pool, now_s)
        self._replace(pod, pod.state, pod.since_s, now_s, failure)
        self._scaler.use_room(now_s)

    def _replace(self, pod: PodRecord, state: PodState, began_s: float, now_s: float, failure: Failure) -> None:
        """`pod`, in `state` since `began_s`, is gone or given up: start another where one is still needed."""
        pool = self._pools.get(pod.function_id)
        if pool is None:
            if not pod.template_id and (state == "starting" or state == "warm"):
                self._scaler.warm.note_failure(pod.environment)
                self._scaler.refill(pod.environment, now_s)
            return
        if pod.pod_id in pool.pods:
            before = len(pool.pods)
            pool.take_out(pod, now_s)
            self._fleet.record(pool, before, failure.text, now_s)
        if self._scaler.moves.is_target(pod.pod_id):
            self._scaler.moves.target_failed(pod.pod_id, failure.text, now_s)
        elif state == "starting" or state == "binding":
            self.note(pool, pod.pod_id, began_s, now_s, failure)
        # First who waits longer: it may have been ended for them, and would take its memory back each time.
        self._scaler.use_room(now_s)
        self._scaler.scale(pool, now_s)
