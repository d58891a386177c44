"""Functions that somebody defined: by which link, and which apps they are deployed in."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable
from functools import partial

import msgspec

from deepserve.protocol.specs import FunctionSpec, Scaling
from deepserve_controller.core import events
from deepserve_controller.service.checkpoint_size import checkpoint_bytes
from deepserve_controller.service.loop import CoreLoop
from deepserve_controller.service.reactor import Timer, running_reactor

RETIRED_LOOK_S = 0.25
"""How often it is looked whether a function that was replaced by a newer version is still running."""
FORGET_AFTER_S = 600.0
"""A script that is run again and again finds its functions where it left them."""
NUM_STOPPED = 1000
"""So many are remembered as stopped."""


class Functions:
    """Tells the cores about a function once, however often it is defined.

    A function that nobody holds any more (every link that defined it is closed, and no app names it) keeps its
    warm pods for their idle time, but no pod is held up for it; after a while it is forgotten.

    One that was stopped is removed at once, unless somebody brought it himself: who found it by its name, where it was
    deployed, has no say in it then, nor has a pod of it (a recursion) or of what is to end with it.
    """

    def __init__(
        self,
        cores: CoreLoop,
        forget_after_s: float = FORGET_AFTER_S,
        scale_model: Callable[[Scaling], Scaling] = lambda scaling: scaling,
    ) -> None:
        """`scale_model`: what becomes of the bounds that a model is defined with."""
        self._cores = cores
        self._scale_model = scale_model
        self._forget_after_s = forget_after_s
        self.is_used: Callable[[str], bool] = lambda function_id: False
        """Whether a request of it is still running."""
        self.function_of: Callable[[str], str] = lambda holder: ""
        """Of a holder that is a pod: the id of the function that it runs."""
        self.on_new: Callable[[FunctionSpec], None] = lambda spec: None
        """Called with what was not defined before."""
        self.kept_scaling: Callable[[str], Scaling | None] = lambda function_id: None
        """What it is to be scaled to in place of what it is defined with."""
        self.specs: dict[str, FunctionSpec] = {}
        self._holders: dict[str, dict[str, bool]] = {}
        """By function id, those who defined it, and whether they had found it by its name."""
        self._stopped: dict[str, None] = {}
        """Ids of what was stopped and not brought again since, the latest last."""
        self._lowered: set[str] = set()
        """Ids of what was replaced and is held by pods of its own or by who found it only: no pod is held up for it."""
        self._timers: dict[str, Timer] = {}
        """Of functions that nobody holds: when they are forgotten."""

    def label(self, function_id: str) -> str:
        spec = self.specs.get(function_id)
        return spec.label if spec else function_id

    def define(self, holder: str, function_id: str, spec: FunctionSpec, *, is_found: bool = False) -> None:
        """`holder`: a link id, or `app:<name>`. is_found: who says so knows it by its name only."""
        if function_id in self._stopped and function_id not in self.specs:
            if is_found:
                return
            if not self._is_last_of_stopped(holder):
                del self._stopped[function_id]
        if holder.startswith("app:"):
            self._stopped.pop(function_id, None)
        was_released = not self.is_held(function_id)
        holders = self._holders.setdefault(function_id, {})
        holders[holder] = is_found and holders.get(holder, True)
        if (timer := self._timers.pop(function_id, None)) is not None:
            timer.cancel()
        if function_id not in self.specs:
            if spec.kind == "model":
                spec = msgspec.structs.replace(spec, scaling=self._scale_model(spec.scaling))
            self.specs[function_id] = spec
            scaling = self.kept_scaling(function_id) or spec.scaling
            defined = msgspec.structs.replace(spec, scaling=scaling)
            self._cores.give(events.FunctionDefined(function_id, defined, checkpoint_bytes(spec)))
            self.on_new(spec)
        elif spec.scaling.min_pods and (
            was_released or (function_id in self._lowered and self._is_rooted(function_id))
        ):
            self._lowered.discard(function_id)
            self._cores.give(events.ScalingChanged(function_id, spec.scaling.min_pods, spec.scaling.max_pods))

    def scale(self, function_id: str, scaling: Scaling) -> None:
        bounds = scaling.min_pods, scaling.max_pods, scaling.buffer_pods, scaling.scaledown_window_s
        self._cores.give(events.ScalingChanged(function_id, *bounds))

    def is_held(self, function_id: str) -> bool:
        """A link that defined it is open, or an app names it."""
        return self._is_held(function_id, {function_id})

    def _is_held(self, function_id: str, seen: set[str]) -> bool:
        """`seen`: what would be held by itself only, where it led back there."""
        holders = self._holders.get(function_id, {})
        if function_id not in self._stopped:
            return bool(holders)
        return any(not is_found and self._has_say(holder, seen) for holder, is_found in holders.items())

    def _has_say(self, holder: str, seen: set[str]) -> bool:
        """A pod of what is to end has none unless that stays; one whose function is gone has until its work is over."""
        function_id = self.function_of(holder)
        if function_id not in self._stopped or function_id not in self.specs:
            return True
        if function_id in seen:
            return False
        seen.add(function_id)
        return self._is_held(function_id, seen)

    def _is_last_of_stopped(self, holder: str) -> bool:
        """It is a pod that ends what it does, of a function that was stopped and removed."""
        function_id = self.function_of(holder)
        return function_id in self._stopped and function_id not in self.specs

    def _is_rooted(self, function_id: str, *seen: str) -> bool:
        """An app or somebody's link brings it, or a pod of what is held so itself."""
        callers = [
            self.function_of(holder) for holder, is_found in self._holders.get(function_id, {}).items() if not is_found
        ]
        seen = (*seen, function_id)
        return any(not caller or (caller not in seen and self._is_rooted(caller, *seen)) for caller in callers)

    def release(self, holder: str, function_id: str) -> None:
        holders = self._holders.get(function_id, {})
        if holder not in holders:
            return
        del holders[holder]
        if function_id not in self._stopped and not holders:
            spec = self.specs[function_id]
            if spec.scaling.min_pods:
                self._cores.give(events.ScalingChanged(function_id, 0, spec.scaling.max_pods))
            self._forget_later(function_id)
        self._remove_stopped()

    def stop(self, holder: str, function_ids: Iterable[str]) -> None:
        """They were deployed by `holder`, and are to end: no new requests, and their pods drain. While a link or an app
        holds one that brought it itself, that happens when the last of them has left."""
        for function_id in sorted({instance for each in function_ids for instance in self._instances(each)}):
            self._holders.get(function_id, {}).pop(holder, None)
            self._stopped.pop(function_id, None)
            self._stopped[function_id] = None
        for forgotten in list(self._stopped)[:-NUM_STOPPED]:
            del self._stopped[forgotten]
        self._remove_stopped()

    def replace(self, holder: str, function_ids: Collection[str]) -> None:
        """`holder` was deployed again without them. Who found one keeps it, and what runs of it may call it still."""
        for function_id in sorted(function_ids):
            self.release(holder, function_id)
            self.remove(function_id)
        for function_id in sorted(self.specs.keys() & set(function_ids)):
            scaling = self.specs[function_id].scaling
            if scaling.min_pods and not self._is_rooted(function_id):
                self._lowered.add(function_id)
                self._cores.give(events.ScalingChanged(function_id, 0, scaling.max_pods))

    def _instances(self, function_id: str) -> list[str]:
        """Itself, and of a class what was found by its name and has constructor arguments."""
        spec = self.specs.get(function_id)
        instances = [
            other
            for other, its_spec in self.specs.items()
            if its_spec.params and msgspec.structs.replace(its_spec, params=b"") == spec
        ]
        return [function_id, *(each for each in instances if all(self._holders.get(each, {}).values()))]

    def _remove_stopped(self) -> None:
        for function_id in [each for each in self._stopped if each in self.specs]:
            self.remove(function_id)

    def retire(self, holder: str, function_id: str) -> None:
        """`holder` has a newer version: where nobody else holds this one, its pods go when nothing of it runs."""
        self.release(holder, function_id)
        if function_id in self._timers:
            self._timers.pop(function_id).cancel()
            self._forget_when_unused(function_id)

    def _forget_when_unused(self, function_id: str) -> None:
        self._timers.pop(function_id, None)
        if not self.is_used(function_id):
            return self.remove(function_id)
        again = partial(self._forget_when_unused, function_id)
        self._timers[function_id] = running_reactor().call_later(RETIRED_LOOK_S, again)

    def release_all(self, holder: str) -> None:
        for function_id in [name for name, holders in self._holders.items() if holder in holders]:
            self.release(holder, function_id)

    def remove(self, function_id: str) -> None:
        """No new requests; its pods drain. Nothing happens while a link or an app still holds it."""
        if function_id in self.specs and not self.is_held(function_id):
            del self.specs[function_id]
            self._holders.pop(function_id, None)
            self._lowered.discard(function_id)
            if (timer := self._timers.pop(function_id, None)) is not None:
                timer.cancel()
            self._cores.give(events.FunctionRemoved(function_id))

    def _forget_later(self, function_id: str) -> None:
        forget = partial(self._forget, function_id)
        self._timers[function_id] = running_reactor().call_later(self._forget_after_s, forget)

    def _forget(self, function_id: str) -> None:
        del self._timers[function_id]
        if self.is_used(function_id):
            self._forget_later(function_id)
        else:
            self.remove(function_id)
