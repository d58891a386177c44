"""HostMemory: whether one more pod fits into the memory of the host."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping

from deepserve.protocol.specs import FunctionSpec
from deepserve_controller.core.function_pool import FunctionPool
from deepserve_controller.core.memory_views import ChooseParking, IdlePod, Parking
from deepserve_controller.core.pod_record import PodRecord

ASSUMED_MIB: Mapping[str, int] = {"python": 16, "tokenizer": 64, "flowserve": 256}
"""What a pod without a limit of its own is taken to use beyond what it shares with its template, by environment."""

ASLEEP_SHARE = 0.4
"""Of what a pod takes awake: of a 0.6B model at 8 bits 235 of 620 MB, most of it weights in the page cache."""
END = Parking(0, "")


class HostMemory:
    """Adds up the limits of all pods that are not gone. `usable_mib` 0: there is no bound.

    `templates`: of which functions there is one; it takes what one of its pods takes, though they share most of it.
    `held_mib`: what all of them have loaded besides (weights).
    """

    def __init__(
        self,
        pods: Mapping[str, PodRecord],
        usable_mib: int,
        templates: Callable[[], Iterable[FunctionSpec]],
        park: ChooseParking,
        held_mib: Callable[[], int],
    ) -> None:
        self._held_mib = held_mib
        self._pods = pods
        self._templates = templates
        self._park = park
        self.usable_mib = usable_mib
        self._overdrawn_mib = 0
        """What pods that were woken took beyond that, when the last one was."""

    def need_mib(self, environment: str, memory_mib: int) -> int:
        return memory_mib or ASSUMED_MIB.get(environment, ASSUMED_MIB["python"])

    def missing_mib(self, environment: str, memory_mib: int, num_pods: int = 1) -> int:
        """What must become free before so many such pods may start; not positive where they fit now."""
        if not self.usable_mib:
            return 0
        return self.used_mib() + num_pods * self.need_mib(environment, memory_mib) - self.usable_mib

    def has_room(self, spec: FunctionSpec, num_pods: int) -> bool:
        """For that many pods of it."""
        need_mib = self.need_mib(spec.environment, spec.resources.memory_mib)
        return not self.usable_mib or self.used_mib() + num_pods * need_mib <= self.usable_mib

    def used_mib(self) -> int:
        specs = self._templates()
        in_templates = sum(self.need_mib(spec.environment, spec.resources.memory_mib) for spec in specs)
        return self.total_mib(self._pods.values()) + in_templates + self._held_mib()

    def leaving_mib(self) -> int:
        """What pods hold that were told to end."""
        return self.total_mib(pod for pod in self._pods.values() if pod.state in ("draining", "stopped"))

    def total_mib(self, pods: Iterable[PodRecord]) -> int:
        return sum(
            self._asleep_mib(pod) if pod.is_asleep else self.need_mib(pod.environment, pod.memory_mib) for pod in pods
        )

    def givers(
        self,
        asking: FunctionPool | None,
        pools: Mapping[str, FunctionPool],
        unbound: Iterable[PodRecord],
        missing_mib: int,
        now_s: float,
    ) -> list[tuple[PodRecord, Parking]]:
        """Who gives `missing_mib` to `asking`, in this order: nobody's pods; idle pods of other functions, the longest
        idle first: those that may sleep do so, of the others what is beyond their `min_pods` ends; then what sleeps
        ends too; and where `asking` has no pod at all, one busy pod of the function that has the most, if it keeps
        one. None whose share the others make up for."""
        givers: dict[str, tuple[PodRecord, Parking]] = {}
        idle = idle_pods(asking, pools)
        ends = [(pod, END) for pod in unbound]
        parked = [(pod, self._park(_seen(pod, pools[pod.function_id].spec, now_s))) for pod in idle]
        asleep = [(pod, self._park(_seen(pod, pools[pod.function_id].spec, now_s, True))) for pod in idle]
        spare = set(beyond_least(asking, pools))
        sleepers = [(pod, parking) for pod, parking in parked if parking.level]
        enders = [(pod, parking) for pod, parking in [*parked, *asleep] if not parking.level and pod.pod_id in spare]
        for pod, parking in [*ends, *sleepers, *enders, *((pod, END) for pod in busy_pod(asking, pools))]:
            if missing_mib <= 0:
                break
            before = self._gift_mib(pod, givers[pod.pod_id][1]) if pod.pod_id in givers else 0
            givers[pod.pod_id] = pod, parking
            missing_mib -= self._gift_mib(pod, parking) - before
        for pod, parking in list(givers.values()):
            gift_mib = self._gift_mib(pod, parking)
            if missing_mib + gift_mib <= 0:
                del givers[pod.pod_id]
                missing_mib += gift_mib
        return list(givers.values())

    def _gift_mib(self, pod: PodRecord, parking: Parking) -> int:
        has_mib = self.total_mib([pod])
        return has_mib - self._asleep_mib(pod) if parking.level else has_mib

    def _asleep_mib(self, pod: PodRecord) -> int:
        return int(self.need_mib(pod.environment, pod.memory_mib) * ASLEEP_SHARE)

    def note_woken(self) -> None:
        """A pod was given a task in its sleep: it takes its memory back, whether there is some or not."""
        self._overdrawn_mib = max(0, self.used_mib() - self.usable_mib) if self.usable_mib else 0

    @property
    def overdrawn_mib(self) -> int:
        return max(0, self.used_mib() - self.usable_mib) if self._overdrawn_mib else 0

    def never_fits(self, spec: FunctionSpec) -> str:
        """Why not even one pod of `spec` can start here; empty where one can."""
        need_mib = self.need_mib(spec.environment, spec.resources.memory_mib)
        if not self.usable_mib or need_mib <= self.usable_mib:
            return ""
        return f"a pod of {spec.label} needs {need_mib} MiB of memory; this host has {self.usable_mib} MiB for pods"

    def short_reason(self, spec: FunctionSpec) -> str:
        need_mib = self.need_mib(spec.environment, spec.resources.memory_mib)
        used_mib = self.used_mib()
        return f"waits for memory: a pod needs {need_mib} MiB, {used_mib} of {self.usable_mib} MiB are taken"

    def check_invariants(self) -> None:
        used_mib = self.used_mib()
        assert not self.usable_mib or used_mib <= self.usable_mib + self._overdrawn_mib, (
            f"{used_mib} of {self.usable_mib} MiB are taken"
        )


def _seen(pod: PodRecord, spec: FunctionSpec, now_s: float, is_asleep: bool = False) -> IdlePod:
    return IdlePod(pod.pod_id, spec.kind, pod.is_asleep or is_asleep, now_s - pod.idle_since_s)


def idle_pods(asking: FunctionPool | None, pools: Mapping[str, FunctionPool]) -> list[PodRecord]:
    """The longest idle first."""
    idle = [
        pod
        for pool in pools.values()
        if pool is not asking
        for pod in pool.pods.values()
        if pod.state == "bound" and not pod.is_busy
    ]
    return sorted(idle, key=lambda pod: pod.idle_since_s)


def beyond_least(asking: FunctionPool | None, pools: Mapping[str, FunctionPool]) -> Iterator[str]:
    """Of idle pods those that their functions need not keep."""
    for pool in pools.values():
        idle = idle_pods(None, {pool.function_id: pool}) if pool is not asking else []
        yield from (pod.pod_id for pod in idle[: max(0, len(pool.pods) - pool.min_pods)])


def busy_pod(asking: FunctionPool | None, pools: Mapping[str, FunctionPool]) -> list[PodRecord]:
    if asking is None or asking.pods:
        return []
    richest = max(pools.values(), key=lambda pool: len(pool.pods) - pool.min_pods)
    if len(richest.pods) <= max(1, richest.min_pods):
        return []
    return [pod for pod in richest.pods.values() if pod.state == "bound" and pod.is_busy][-1:]
