"""StartupBook: what is being loaded on this host, and how long it would take a model to be ready in each place."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import partial

from deepserve.protocol.messages import Weights
from deepserve.protocol.specs import FunctionSpec
from deepserve_controller.core.device import Allotment
from deepserve_controller.core.events import TemplateReady
from deepserve_controller.core.host_devices import HostDevices
from deepserve_controller.core.pod_record import PodRecord
from deepserve_controller.core.startup_times import StartupTimes
from deepserve_controller.core.startup_views import KnownSize, KnownStartups, Startup, TemplateUse

DISK = "disk"
DISK_BYTES_PER_S = 1e9
"""Of a disk, before a load has shown it: what NVMe disks of clouds give at least. Nothing is read to find out."""
BUS_BYTES_PER_S = 12e9
"""Of the bus to a device: half of a PCIe 4.0 x16."""
UNKNOWN_ENGINE_S = 0.5
"""Of a start beside its bytes, and of a template's, before any of that model was seen."""
NUM_SIZES = 500
NUM_ENGINES = 1000
"""So many are told to a later controller: of each model, one for each place where it was started, and two besides."""
TEMPLATE = "template"
"""Stands for a place: what a template takes beside its bytes, before pods can be forked from it."""

Key = tuple[str, str, str | None]
"""Models of one source that are computed alike share their weights."""


class StartupBook:
    """A part of the cluster manager. Links are the host's disk and one bus for each device.

    Whoever is ordered to load is booked on the links that its bytes will pass; what its pod tells of the load corrects
    the estimates. A pod or template that is gone first is found by `settle`, so that nothing stays booked. Loads of
    weights that are on their way already wait for them, and what was loaded is believed to be in the host's memory
    until others have taken as much as there is, or a pod says that it was not.
    """

    def __init__(self, devices: HostDevices, usable_mib: int = 0) -> None:
        """`usable_mib`: memory that keeps what was loaded, 0 without a bound."""
        buses = {_bus(device.kind, device.id): BUS_BYTES_PER_S for device in devices.devices}
        self.times = StartupTimes({DISK: DISK_BYTES_PER_S, **buses}, UNKNOWN_ENGINE_S)
        self._devices = devices
        self._usable_bytes = usable_mib << 20
        self._folder_sizes: dict[Key, int] = {}
        self._sizes: dict[Key, int] = {}
        """As executors have told them, the latest last: what is computed with may take more or less."""
        self._in_memory: dict[Key, None] = {}
        """The least recently used first."""
        self._loads: dict[str, Key] = {}
        """By id of the pod or template that loads."""
        self._on_the_way: dict[Key, str] = {}
        """The load that brings them from the disk."""
        self._ready_s: dict[str, float] = {}
        """Of loads that go on while their engine serves: when that was ready."""

    def define(self, spec: FunctionSpec, size_bytes: int) -> None:
        """`size_bytes`: of its checkpoint, 0 unknown; its first executor says what they take in memory."""
        if size_bytes > 0:
            _put_last(self._folder_sizes, _key(spec), size_bytes)

    def size_bytes(self, spec: FunctionSpec) -> int:
        """Of a model's weights; of others, and unknown, 0."""
        return self._size_of(_key(spec)) if spec.kind == "model" else 0

    def forget(self, spec: FunctionSpec) -> None:
        for place in ("", "cpu", TEMPLATE, *{device.place for device in self._devices.devices}):
            self.times.forget(_engine(spec, place))

    def known(self) -> KnownStartups:
        """For a later controller on this host. Where weights are is not told: memory may be another's by then."""
        engines_s = list(self.times.engines_s.items())[-NUM_ENGINES:]
        return KnownStartups(
            {name: link.bytes_per_s for name, link in self.times.links.items() if link.is_learned},
            dict(engines_s),
            tuple(KnownSize(*key, size_bytes) for key, size_bytes in self._sizes.items()),
        )

    def learn(self, known: KnownStartups) -> None:
        """What an earlier controller on this host knew."""
        self.times.learn(known.bytes_per_s, dict(list(known.engine_s.items())[-NUM_ENGINES:]))
        for size in known.sizes[-NUM_SIZES:]:
            _put_last(self._sizes, (size.source, size.dtype, size.quantization), size.size_bytes)

    # --- loads ----------------------------------------------------------------------------------------

    def ordered(self, load_id: str, spec: FunctionSpec, devices: Allotment, now_s: float) -> None:
        """A pod, or a template, is to load it."""
        self._book(load_id, spec, [_bus(devices.kind, name) for name in devices.ids], now_s)

    def template_ready(self, event: TemplateReady, spec: FunctionSpec, now_s: float) -> None:
        """One that has only mapped a file leaves the reading to its first pod."""
        if spec.kind != "model":
            return
        read_ms = event.weights.read_ms
        self._learn_size(spec, event.weights)
        self._end(event.template_id, now_s, read_ms)
        if event.source == "host memory" or read_ms > 0.0:
            self._note_in_memory(_key(spec))
        if event.source != "conversion" and not read_ms:
            self.times.note_engine(_engine(spec, TEMPLATE), event.load_ms / 1e3)

    def pod_ready(self, pod: PodRecord, spec: FunctionSpec, weights: Weights, now_s: float) -> None:
        """Before its state changes."""
        place = self._devices.place_of(pod)
        if spec.kind != "model" and not place:
            return  # nobody asks how long these take
        took_s = now_s - (pod.started_s if pod.template_id else pod.since_s)
        for where in {"", place}:
            self.times.note_engine(_engine(spec, where), took_s - weights.read_ms / 1e3)
        if spec.kind != "model":
            return
        self._learn_size(spec, weights)
        if not weights.is_arriving:
            self._end(pod.pod_id, now_s, weights.read_ms)
            return self._note_in_memory(_key(spec))
        if _key(spec) not in self._on_the_way:  # they were believed to be in memory
            self._in_memory.pop(_key(spec), None)
            self._book(pod.pod_id, spec, [], now_s)
        if pod.pod_id in self._loads:
            self._ready_s[pod.pod_id] = now_s

    def weights_read(self, pod_id: str, read_ms: float, now_s: float) -> None:
        """All is there that its engine was still reading when it was ready."""
        if (key := self._loads.get(pod_id)) is not None and pod_id in self._ready_s:
            self._end(pod_id, min(now_s, self._ready_s[pod_id] + read_ms / 1e3), read_ms)
            self._note_in_memory(key)

    def settle(self, is_loading: Callable[[str], bool], now_s: float) -> None:
        """Who does not load any more, and was not ready, has given up."""
        for load_id in [load_id for load_id in self._loads if not is_loading(load_id)]:
            self._end(load_id, now_s)

    # --- estimates ------------------------------------------------------------------------------------

    def start_s(self, spec: FunctionSpec, place: str, now_s: float, template: TemplateUse = "none") -> float:
        """Until a pod of it is ready in `place`, were it ordered now, once it has the devices that it takes there.

        Counted from when its process is there, which takes an environment that is in use some milliseconds.
        """
        key = _key(spec)
        path = self._path(spec, self._buses(spec, place))
        moved_s = self.times.move_s(path, now_s)
        if (load_id := self._on_the_way.get(key)) is not None:
            moved_s = max(moved_s, self.times.left_s(load_id, now_s))
        return moved_s + self._engine_s(spec, place, template)

    def starts_s(self, spec: FunctionSpec, now_s: float) -> Callable[[str], float]:
        """The same as a function of the place."""
        return partial(self.start_s, spec, now_s=now_s)

    def soonest_s(self, spec: FunctionSpec, now_s: float, template: TemplateUse) -> float:
        """Of a model in the place where that is first; 0 before any start of it was seen."""
        if spec.kind != "model" or not self.times.knows(_engine(spec, "")):
            return 0.0
        return min(self.start_s(spec, place, now_s, template) for place in self._places(spec))

    def view(self, spec: FunctionSpec, now_s: float, template: TemplateUse) -> Startup | None:
        """None where nothing is known of it yet."""
        key = _key(spec)
        size_bytes = self._size_of(key)
        if not size_bytes and not self.times.knows(_engine(spec, "")):
            return None
        place = min(self._places(spec), key=lambda name: self.start_s(spec, name, now_s, template))
        buses = self._bus_path(size_bytes, self._buses(spec, place))
        loaded_s = self._engine_s(spec, place, "needed" if template == "ready" else template)
        by_source_s = {"host memory": self.times.move_s(buses, now_s) + loaded_s}
        if size_bytes:
            by_source_s["file"] = self.times.move_s({DISK: size_bytes, **buses}, now_s) + loaded_s
        source = "host memory" if key in self._in_memory or not size_bytes else "file"
        if template == "ready" and source == "host memory":
            source, by_source_s = "fork", {"fork": 0.0, **by_source_s}
        by_source_s[source] = self.start_s(spec, place, now_s, template)
        return Startup(by_source_s[source], source, by_source_s, size_bytes, self.times.knows(_engine(spec, "")))

    def check_invariants(self, is_loading: Callable[[str], bool]) -> None:
        self.times.check_invariants()
        for load_id in self._loads:
            assert is_loading(load_id), f"{load_id} is gone, and its load stays booked"
        assert self.times.load_ids == self._loads.keys(), "what is booked on links is not what loads"
        assert self._ready_s.keys() <= self._loads.keys()
        for key, load_id in self._on_the_way.items():
            assert self._loads[load_id] == key, f"{load_id} brings other weights than is believed"

    # --- inside ---------------------------------------------------------------------------------------

    def _book(self, load_id: str, spec: FunctionSpec, buses: list[str], now_s: float) -> None:
        self._end(load_id, now_s)  # it was meant for another function before
        path = self._path(spec, buses)
        if not path:
            return
        self.times.book(load_id, path, now_s)
        self._loads[load_id] = _key(spec)
        if DISK in path:
            self._on_the_way[_key(spec)] = load_id

    def _end(self, load_id: str, now_s: float, read_ms: float = 0.0) -> None:
        if (key := self._loads.pop(load_id, None)) is None:
            return
        self.times.ended(load_id, now_s, read_ms / 1e3 if read_ms > 0.0 else None)
        self._ready_s.pop(load_id, None)
        if self._on_the_way.get(key) == load_id:
            del self._on_the_way[key]

    def _learn_size(self, spec: FunctionSpec, weights: Weights) -> None:
        if weights.size_bytes > 0:
            _put_last(self._sizes, _key(spec), weights.size_bytes)

    def _note_in_memory(self, key: Key) -> None:
        self._in_memory.pop(key, None)
        self._in_memory[key] = None
        while len(self._in_memory) > NUM_SIZES or (
            len(self._in_memory) > 1 and 0 < self._usable_bytes < self._bytes_in_memory()
        ):
            del self._in_memory[next(iter(self._in_memory))]

    def _size_of(self, key: Key) -> int:
        """0 unknown."""
        return self._sizes.get(key) or self._folder_sizes.get(key, 0)

    def _bytes_in_memory(self) -> int:
        return sum(self._size_of(key) for key in self._in_memory)

    def _path(self, spec: FunctionSpec, buses: list[str]) -> Mapping[str, int]:
        """From where the weights are: on the disk, in the host's memory, or on their way there."""
        key, size_bytes = _key(spec), self.size_bytes(spec)
        if not size_bytes:
            return {}
        is_there = key in self._in_memory or key in self._on_the_way
        return self._bus_path(size_bytes, buses) | ({} if is_there else {DISK: size_bytes})

    def _bus_path(self, size_bytes: int, buses: list[str]) -> dict[str, int]:
        """Of several devices each gets its share."""
        return {name: -(-size_bytes // len(buses)) for name in buses}

    def _buses(self, spec: FunctionSpec, place: str) -> list[str]:
        """Those of the place that are free first, as many as one pod takes."""
        number = self._devices.places(spec).get(place, 0)
        names = [_bus(device.kind, device.id) for device in self._devices.devices if device.place == place]
        return sorted(names, key=lambda name: self.times.links[name].free_at_s)[:number]

    def _places(self, spec: FunctionSpec) -> list[str]:
        return list(self._devices.places(spec)) or [""]

    def _engine_s(self, spec: FunctionSpec, place: str, template: TemplateUse) -> float:
        """As lately there, or as elsewhere."""
        there = _engine(spec, place)
        seconds = self.times.engine_s(there if self.times.knows(there) else _engine(spec, ""))
        return seconds + (self.times.engine_s(_engine(spec, TEMPLATE)) if template == "needed" else 0.0)


def _put_last(sizes: dict[Key, int], key: Key, size_bytes: int) -> None:
    sizes.pop(key, None)
    sizes[key] = size_bytes
    while len(sizes) > NUM_SIZES:
        del sizes[next(iter(sizes))]


def _bus(kind: str, device_id: str) -> str:
    return f"bus to {kind} {device_id}"


def _engine(spec: FunctionSpec, place: str) -> str:
    return f"{spec.label} {place}"


def _key(spec: FunctionSpec) -> Key:
    model = spec.model
    return (model.source, model.dtype, model.quantization) if model is not None else (spec.label, "", None)
