"""Fleet: all pods there are, and the orders that take each of them from one state to the next.

It decides nothing: the scaler says which pod is for whom, the cluster manager and its other parts what became of it.
"""

from __future__ import annotations

import msgspec

from deepserve.protocol.ids import IdAllocator
from deepserve.protocol.specs import FunctionSpec
from deepserve_controller.core import events
from deepserve_controller.core.actions import Action, BindPod, KillPod, Notify, SleepPod, StartPod, StopPod
from deepserve_controller.core.alarms import Alarms
from deepserve_controller.core.function_pool import FunctionPool
from deepserve_controller.core.function_templates import FunctionTemplates
from deepserve_controller.core.host_devices import NOTHING, HostDevices
from deepserve_controller.core.memory_claims import MemoryClaim
from deepserve_controller.core.pod_record import PodRecord
from deepserve_controller.core.scaling_views import ScalingDecision
from deepserve_controller.core.startup_book import StartupBook

WARM_START_TIMEOUT_S = 120.0
"""For pods of the warm pool, which have no function with a `startup_timeout_s`."""

UNLIMITED_DRAIN_S = 3600.0
"""What the tasks of a function without a time limit get to end on a draining pod."""

FORK_LIMIT_S = 30.0
"""For a function's template to fork a pod, which takes milliseconds: one that is stopped does not."""


class Fleet:
    """Each change of a function's pods is recorded with its reason. Actions are appended to `out`."""

    def __init__(
        self,
        pods: dict[str, PodRecord],
        pools: dict[str, FunctionPool],
        ids: IdAllocator,
        alarms: Alarms,
        out: list[Action],
        stop_grace_s: float,
        devices: HostDevices,
        startups: StartupBook,
        templates: FunctionTemplates,
    ) -> None:
        self._pods = pods
        self._pools = pools
        self._ids = ids
        self._alarms = alarms
        self._out = out
        self._stop_grace_s = stop_grace_s
        self._devices = devices
        self._startups = startups
        self._templates = templates

    def record(self, pool: FunctionPool, before: int, reason: str, now_s: float) -> None:
        view = pool.view(self.num_draining(pool))
        pool.history.add(
            ScalingDecision(
                now_s, before, view.pods, reason, view.ready, view.starting, view.draining, view.queued, view.running
            )
        )

    def num_draining(self, pool: FunctionPool) -> int:
        return sum(
            1 for pod in self._pods.values() if pod.state == "draining" and pod.function_id == pool.function_id
        )  # fmt: skip

    def start(
        self,
        environment: str,
        memory_mib: int,
        reason: str,
        now_s: float,
        template_id: str = "",
        claim: MemoryClaim | None = None,
    ) -> PodRecord:
        """claim: of one from a function's template, which is told so at once."""
        pod_id = self._ids.new("pod")
        pod = PodRecord(pod_id, environment, memory_mib, "", "", reason, now_s, now_s, template_id=template_id)
        self._pods[pod_id] = pod
        if template_id:
            self._templates.note_pod(pod)
        kv_bytes = claim.kv_bytes if template_id and claim is not None else 0
        self._out.append(StartPod(pod_id, environment, memory_mib, reason, template_id, kv_bytes))
        return pod

    def start_warm(self, environment: str, reason: str, now_s: float) -> None:
        """For the warm pool."""
        self.must_be_ready(self.start(environment, 0, reason, now_s), now_s + WARM_START_TIMEOUT_S)

    def claim(
        self, pod: PodRecord, pool: FunctionPool, now_s: float, memory: MemoryClaim | None, place: str = ""
    ) -> None:
        """`pod` is meant for `pool` from now on, may take so much memory, and has that function's `startup_timeout_s`
        to get ready."""
        pod.claim = memory
        pod.function_id, pod.label, pod.reason = pool.function_id, pool.spec.label, pool.wanted.reason
        pod.devices = self._devices.choose(pool.spec, place, self._startups.starts_s(pool.spec, now_s)) or NOTHING
        self._startups.ordered(pod.pod_id, pool.spec, pod.devices, now_s)
        pool.add(pod, now_s)
        limit_s = pool.spec.startup_timeout_s
        self.must_be_ready(pod, now_s + (min(limit_s, FORK_LIMIT_S) if pod.template_id else limit_s))

    def must_be_ready(self, pod: PodRecord, by_s: float) -> None:
        pod.ready_by_s = by_s
        self._alarms.set(by_s, "start", pod)

    def bind(self, pod: PodRecord, pool: FunctionPool, now_s: float) -> None:
        """One that is meant for `pool`: its clock runs since then."""
        pod.move("binding", now_s)
        kv_bytes = pod.claim.kv_bytes if pod.claim is not None else 0
        spec = self._spec_for(pod, pool)
        self._out.append(BindPod(pod.pod_id, pool.function_id, spec, pod.reason, pod.devices, kv_bytes))

    def _spec_for(self, pod: PodRecord, pool: FunctionPool) -> FunctionSpec:
        """With the accelerator that it has got as the only one, or with what a model computes on in its stead."""
        held = pod.devices
        if not held.accelerator:
            return pool.spec
        accelerator = held.engine if held.engine and pool.spec.kind == "model" else held.accelerator
        resources = msgspec.structs.replace(pool.spec.resources, accelerators=(accelerator,))
        return msgspec.structs.replace(pool.spec, resources=resources)

    def unclaim(self, pod: PodRecord, reason: str, now_s: float) -> None:
        """It goes on starting, for the warm pool."""
        pool = self._pools[pod.function_id]
        pool.take_out(pod, now_s)
        pool.note_gone(pod, now_s)
        pod.function_id, pod.label, pod.reason = "", "", reason
        pod.devices, pod.claim = NOTHING, None
        self.must_be_ready(pod, pod.started_s + WARM_START_TIMEOUT_S)

    def sleep(self, pod: PodRecord, level: int, reason: str, now_s: float) -> None:
        """It goes on serving its function: its next task wakes it."""
        pod.is_asleep, pod.reason = True, reason
        self._out.append(SleepPod(pod.pod_id, level, reason))
        pool = self._pools[pod.function_id]
        self.record(pool, len(pool.pods), f"{pod.pod_id} {reason}", now_s)

    def give_up(self, pool: FunctionPool, pods: list[PodRecord], reason: str, now_s: float) -> None:
        """`{}` in the reason stands for the autoscaler's."""
        before, reason = len(pool.pods), reason.replace("{}", pool.wanted.reason)
        for pod in pods:
            self._leave(pod, reason, now_s)
        if len(pool.pods) != before:
            self.record(pool, before, reason, now_s)

    def _leave(self, pod: PodRecord, reason: str, now_s: float) -> None:
        """Take the pod from its function: drain a bound one, end one that binds, keep one that starts for the pool."""
        if pod.state == "bound":
            self._drain(pod, reason, now_s)
        elif pod.state == "binding" or (pod.state == "starting" and pod.template_id):
            self._pools[pod.function_id].take_out(pod, now_s)
            self.end(pod, reason, now_s)
        elif pod.state == "starting":
            self.unclaim(pod, reason, now_s)

    def end(self, pod: PodRecord, reason: str, now_s: float) -> None:
        """It is not ready, and will not be: nothing runs on it."""
        self._out.append(Notify(events.PodDrainStarted(pod.pod_id)))
        self.kill(pod, reason, now_s)

    def _drain(self, pod: PodRecord, reason: str, now_s: float) -> None:
        """What runs on it may end, within its own time limit; then exit hooks run, then it ends."""
        self.close(pod, reason, now_s)
        self._out.append(Notify(events.PodDrainStarted(pod.pod_id)))

    def close(self, pod: PodRecord, reason: str, now_s: float) -> None:
        """It counts no more; its tasks have their own time limit to end."""
        pool = self._pools[pod.function_id]
        pool.take_out(pod, now_s)
        pod.move("draining", now_s, reason)
        limit_s = pool.spec.timeout_s if pool.spec.timeout_s > 0.0 else UNLIMITED_DRAIN_S
        pod.drain_alarm = self._alarms.set(now_s + limit_s + self._stop_grace_s, "drain", pod)

    def stop(self, pod: PodRecord, reason: str, now_s: float) -> None:
        pod.move("stopped", now_s, reason)
        self._out.append(StopPod(pod.pod_id, reason, self._stop_grace_s))

    def kill(self, pod: PodRecord, reason: str, now_s: float) -> None:
        pod.move("stopped", now_s, reason)
        self._out.append(KillPod(pod.pod_id, reason))

    def check_invariants(self) -> None:
        for pod in self._pods.values():
            pod.check_invariants()
            if pod.state in ("binding", "bound"):
                pool = self._pools.get(pod.function_id)
                assert pool and pod.pod_id in pool.pods, f"{pod.pod_id} is {pod.state} but in no function's pool"
        for pool in self._pools.values():
            pool.check_invariants()
            for pod_id, pod in pool.pods.items():
                assert self._pods.get(pod_id) is pod, f"{pool.spec.label} keeps the lost {pod_id}"
