"""HostDevices: which pod holds which NPU or GPU of the host, and whether one more pod gets what it asks for."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import NamedTuple

import msgspec

from deepserve.protocol.specs import ENGINE_DEVICES, FunctionSpec
from deepserve_controller.core.device import Allotment, Device
from deepserve_controller.core.function_pool import FunctionPool
from deepserve_controller.core.host_memory import beyond_least, busy_pod, idle_pods
from deepserve_controller.core.pod_record import PodRecord

NOTHING = Allotment()
"""Of a pod whose function names no accelerator: it sees what the controller sees."""


class Wish(NamedTuple):
    """One choice of an accelerator option, `kind[:model][:count]`; `text` as it was written. number: of one pod.
    engines: of a model, the kinds that it can compute on; empty for code that sees for itself."""

    text: str
    kind: str
    model: str
    number: int
    engines: tuple[str, ...] = ()

    def fits(self, device: Device) -> bool:
        if self.engines and (device.engine or device.kind) not in self.engines:
            return False
        return device.kind == self.kind and (not self.model or self.model.lower() in (device.model, *device.names))


class HostDevices:
    """What a pod holds stands in its record, so that it is free when the record is gone: when the process is.

    A pod gets all that it asks for or nothing, of one model: the ranks of a tensor-parallel model start together.
    Of the choices the first that is free now is taken.
    """

    def __init__(
        self,
        pods: Mapping[str, PodRecord],
        devices: tuple[Device, ...] = (),
        engine_kinds: tuple[str, ...] = ENGINE_DEVICES,
    ) -> None:
        """engine_kinds: what models can run on."""
        self._pods = pods
        self.devices = devices
        self._by_name = {(device.kind, device.id): device for device in devices}
        self._engine_kinds = engine_kinds

    def choose(
        self, spec: FunctionSpec, place: str = "", cost: Callable[[str], float] = lambda place: 0.0
    ) -> Allotment | None:
        """What its next pod gets, in `place` or anywhere; None where it has to wait. `cost`: of places that one choice
        leaves open, the least of which is taken."""
        if not spec.resources.accelerators:
            return NOTHING
        held = self._held(self._pods.values())
        for wish in self._wishes(spec):
            if wish.kind == "cpu" and place in ("", "cpu"):
                return Allotment(wish.text, "cpu")
            if taken := self._pick(wish, held, place, cost):
                return Allotment(wish.text, wish.kind, taken, self._by_name[wish.kind, taken[0]].engine)
        return None

    def places(self, spec: FunctionSpec) -> dict[str, int]:
        """Where its pods can run, in order of preference, and how many devices one takes there."""
        found: dict[str, int] = {}
        for wish in self._wishes(spec):
            for name in ["cpu"] if wish.kind == "cpu" else [each.place for each in self.devices if wish.fits(each)]:
                found.setdefault(name, wish.number)
        return found

    def free(self) -> dict[str, int]:
        """By place; of CPUs there are always some."""
        held = self._held(self._pods.values())
        found = {"cpu": 1 << 30, **{device.place: 0 for device in self.devices}}
        for device in self.devices:
            found[device.place] += (device.kind, device.id) not in held
        return found

    def place_of(self, pod: PodRecord) -> str:
        """Of what it holds; empty where it holds nothing."""
        held = pod.devices
        return self._by_name[held.kind, held.ids[0]].place if held.ids else held.kind

    def never_fits(self, spec: FunctionSpec) -> str:
        """Why no pod of `spec` can ever start here, naming what the host has; empty where one can."""
        wishes = self._wishes(spec)
        if not spec.resources.accelerators or any(wish.kind == "cpu" or self._pick(wish, set()) for wish in wishes):
            return ""
        wanted = " or ".join(spec.resources.accelerators)
        tensor_parallel = spec.model.tensor_parallel if spec.model is not None else 1
        if tensor_parallel > 1:
            wanted = f"{wanted}, {tensor_parallel} at a time"
        text = f"a pod of {spec.label} needs {wanted}; this host has {self._description()}"
        if spec.kind == "model":
            text = f"{text}, and models run on {', '.join(self._engine_kinds)}"
        return text

    def may_hold(self, spec: FunctionSpec) -> bool:
        """Whether its pods may get devices: then each has others, and none can be a copy of another."""
        return any(self._pick(wish, set()) for wish in self._wishes(spec))

    def without_devices(self, spec: FunctionSpec) -> FunctionSpec:
        """Of a model that may hold some: for a process that has none, and brings what its pods copy to theirs into the
        host's memory. It takes what such a process takes, not what a pod of it may."""
        found = (
            device.engine or wish.text for wish in self._wishes(spec) for device in self.devices if wish.fits(device)
        )
        accelerators = (next(found, ""),)
        resources = msgspec.structs.replace(spec.resources, accelerators=accelerators, memory_mib=0)
        return msgspec.structs.replace(spec, resources=resources)

    def short_reason(self, spec: FunctionSpec) -> str:
        """Empty where it does not wait for devices."""
        if self.choose(spec) is not None:
            return ""
        kinds = {wish.kind for wish in self._wishes(spec)}
        holders = {pod.pod_id: len(pod.devices.ids) for pod in self._pods.values() if pod.devices.kind in kinds}
        held = ", ".join(f"{pod_id} holds {count}" for pod_id, count in holders.items())
        return f"waits for {' or '.join(spec.resources.accelerators)}: {held}"

    def givers(self, asking: FunctionPool, pools: Mapping[str, FunctionPool], is_busy_too: bool) -> list[PodRecord]:
        """Whose devices are enough for a pod of `asking`: the longest idle pods of other functions beyond their
        `min_pods`, and, `is_busy_too`, where `asking` has no pod at all, one busy pod of the function that has the
        most. None where that is not enough, or what leaves already is."""
        spare = set(beyond_least(asking, pools))
        idle = [pod for pod in idle_pods(asking, pools) if pod.pod_id in spare]
        for wish in self._wishes(asking.spec):
            staying = [pod for pod in self._pods.values() if pod.state not in ("draining", "stopped")]
            givers: list[PodRecord] = []
            for pod in (*idle, *(busy_pod(asking, pools) if is_busy_too else ())):
                if self._pick(wish, self._held(staying)):
                    break
                if pod.devices.kind == wish.kind:
                    givers.append(pod)
                    staying.remove(pod)
            if self._pick(wish, self._held(staying)):
                return givers
        return []

    def view(self) -> Iterator[tuple[Device, str]]:
        """Each device, and the pod that holds it or nobody."""
        holders = {(pod.devices.kind, name): pod.pod_id for pod in self._pods.values() for name in pod.devices.ids}
        for device in self.devices:
            yield device, holders.get((device.kind, device.id), "")

    def check_invariants(self) -> None:
        held = [(pod.devices.kind, name) for pod in self._pods.values() for name in pod.devices.ids]
        assert len(held) == len(set(held)), f"a device is held twice: {sorted(held)}"
        assert set(held) <= {(device.kind, device.id) for device in self.devices}, f"held but not there: {held}"

    # --- inside ---------------------------------------------------------------------------------------

    def _wishes(self, spec: FunctionSpec) -> list[Wish]:
        """A model's are of the kinds that the engine knows, and of as many devices as share one copy of it."""
        wishes = [read_wish(text) for text in spec.resources.accelerators]
        if spec.model is None:
            return wishes
        least = spec.model.tensor_parallel
        engines = self._engine_kinds if spec.kind == "model" else ()
        return [
            wish
            for wish in (wish._replace(number=max(wish.number, least), engines=engines) for wish in wishes)
            if not engines or wish.kind in engines or any(wish.fits(device) for device in self.devices)
        ]

    def _pick(
        self,
        wish: Wish,
        held: set[tuple[str, str]],
        place: str = "",
        cost: Callable[[str], float] = lambda place: 0.0,
    ) -> tuple[str, ...]:
        """Ids of one place, of that with the least cost, and of these of that with the fewest free ones that are
        enough; empty where there are not enough."""
        free: dict[str, list[str]] = {}
        for device in self.devices:
            is_fitting = wish.fits(device) and place in ("", device.place)
            if is_fitting and (device.kind, device.id) not in held:
                free.setdefault(device.place, []).append(device.id)
        enough = [(cost(place), len(ids), ids) for place, ids in free.items() if len(ids) >= wish.number]
        return tuple(min(enough, key=lambda each: each[:2])[2][: wish.number]) if enough else ()

    @staticmethod
    def _held(pods: Iterable[PodRecord]) -> set[tuple[str, str]]:
        return {(pod.devices.kind, name) for pod in pods for name in pod.devices.ids}

    def _description(self) -> str:
        counts: dict[str, int] = {}
        for device in self.devices:
            name = f"{device.kind}:{device.model}" if device.model else device.kind
            counts[name] = counts.get(name, 0) + 1
        return ", ".join(f"{count} {name}" for name, count in counts.items()) or "no NPU and no GPU"


def read_wish(text: str) -> Wish:
    """`kind[:model][:count]`, as the SDK has checked it."""
    kind, _, rest = text.partition(":")
    model, _, count = rest.partition(":")
    return Wish(text, kind, model, int(count) if count.isdigit() else 1)
