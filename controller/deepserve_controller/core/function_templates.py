"""FunctionTemplates: the functions that are loaded in a process of their own, from which their pods are forked."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any, Literal, Protocol

from deepserve.protocol.ids import IdAllocator
from deepserve.protocol.messages import PodMemory
from deepserve.protocol.specs import FunctionSpec
from deepserve_controller.core import events
from deepserve_controller.core.actions import Action, StartTemplate, StopTemplate
from deepserve_controller.core.alarms import Alarms
from deepserve_controller.core.events import Event, Payload
from deepserve_controller.core.function_pool import FunctionPool
from deepserve_controller.core.function_template import FunctionTemplate
from deepserve_controller.core.host_devices import NOTHING
from deepserve_controller.core.memory_views import KeepWorth
from deepserve_controller.core.pod_record import PodRecord
from deepserve_controller.core.start_failures import Failure
from deepserve_controller.core.startup_book import StartupBook
from deepserve_controller.core.startup_views import TemplateUse
from deepserve_controller.core.template_book import TemplateBook
from deepserve_controller.core.template_views import ChooseSource, PodSource, TemplateView

FORKED_KINDS = ("function", "class", "model")
"""A tokenizer's environment holds what its pods share."""
START_ALARM, IDLE_ALARM = "template start", "template idle"
MIN_WINDOW_S = 1.0


class PodOwner(Protocol):
    """The cluster manager, as templates need it."""

    def template_changed(self, pool: FunctionPool, now_s: float) -> None:
        """Its template is ready or gone: pods may be missing."""

    def template_failed(self, template: FunctionTemplate, text: str, payload: Payload, now_s: float) -> None:
        """Loading raised an error that would repeat."""

    def template_lost(self, template: FunctionTemplate, failure: Failure, now_s: float) -> None:
        """Loading did not come to an end; it may be tried again."""


class FunctionTemplates:
    """A part of the cluster manager, which gives it events and alarms.

    A function has one template at most. It goes when no pod of the function has been left for its
    `scaledown_window_s`, and when the function is removed, but never before the last pod forked from it: pods end with
    the process that they were forked from.
    """

    def __init__(
        self, ids: IdAllocator, choose: ChooseSource, alarms: Alarms, out: list[Action], owner: PodOwner
    ) -> None:
        self._ids = ids
        self._choose = choose
        self._alarms = alarms
        self._out = out
        self._owner = owner
        self._templates: dict[str, FunctionTemplate] = {}
        self._by_function: dict[str, FunctionTemplate] = {}
        self.has_room: Callable[[FunctionPool], bool] = lambda pool: True
        """Whether the host's memory holds a template and a pod of it."""
        self.most_weights_mib: Callable[[FunctionPool], float] = lambda pool: math.inf
        """That the empty host could hold for it: none are refused that nobody has seen."""
        self.told: Callable[[FunctionPool, PodMemory], None] = lambda pool, memory: None
        """Hears what a pod of it takes, before pods are ordered by that."""
        self.may_hold_devices: Callable[[FunctionSpec], bool] = lambda spec: False
        self.without_devices: Callable[[FunctionSpec], FunctionSpec] = lambda spec: spec
        """Of a model that may hold some: what a process loads in the host's memory alone."""
        self.startups: StartupBook
        """Set by who assembles the parts."""
        self.keep_worth: KeepWorth = lambda held: held.uses
        self.is_expected: Callable[[FunctionPool, float], bool] = lambda pool, now_s: False
        """Whether it is likely to be used soon: then its template stays."""
        self.book = TemplateBook()
        self.handlers: dict[type[Event], Callable[[Any, float], None]] = {
            events.TemplateReady: self._on_ready,
            events.TemplateRefused: self._on_refused,
            events.TemplateFailed: self._on_failed,
            events.TemplateLost: self._on_lost,
        }

    def views(self) -> list[FunctionTemplate]:
        return list(self._templates.values())

    # --- what the cluster manager asks and tells -------------------------------------------------------

    def source(self, pool: FunctionPool, missing: int, now_s: float) -> PodSource:
        """Where the next pods of `pool` come from; loads a template where that is wanted."""
        if pool.spec.kind not in FORKED_KINDS:
            return PodSource(missing, False, False, "")
        if self.may_hold_devices(pool.spec):
            pool.pod_source = "loaded in each pod, which has devices of its own"
            if (copy := self._by_function.get(pool.function_id)) is not None and copy.state == "ready":
                pool.pod_source += ", from host memory"
            return PodSource(missing, False, False, pool.pod_source)
        source = self._choose(self._view(pool, missing))
        if source.is_template_wanted:
            if not self.has_room(pool):
                text = "no memory for a template beside a pod"
                waits = self.is_bound_to_one(pool)
                source = PodSource(0 if waits else missing, False, waits, text)
            else:
                self._start(pool, source.reason, now_s)
        pool.pod_source = source.reason
        if source.is_from_template:
            source = source._replace(template_id=self._by_function[pool.function_id].template_id)
        return source

    def spec_of(self, pool: FunctionPool) -> FunctionSpec:
        """What a template of it loads."""
        return self.without_devices(pool.spec) if self.may_hold_devices(pool.spec) else pool.spec

    def may_load_ahead(self, pool: FunctionPool) -> bool:
        """It was loaded before, has no template now, and could have one."""
        is_able = self.book.was_loaded(pool.function_id) and not self.book.refusal(pool.function_id)
        return is_able and pool.function_id not in self._by_function and not pool.is_removed

    def load_ahead(self, pool: FunctionPool, reason: str, now_s: float) -> None:
        """Nobody waits for it yet."""
        self._start(pool, reason, now_s, is_ahead=True)

    def is_unused(self, pool: FunctionPool) -> bool:
        """Its template is ready, and the function has no pod, or none that needs it."""
        template = self._by_function.get(pool.function_id)
        if template is None or template.state != "ready" or template.pods:
            return False
        return template.is_host_copy or not pool.pods

    def give_up(self, pool: FunctionPool, reason: str) -> None:
        """Its template is unused, and its memory is needed."""
        self._retire(pool, reason)

    def give_up_unused(self, asking: FunctionPool, missing_mib: Callable[[], int], now_s: float) -> None:
        """Memory is short: templates that no pod needs give theirs, the least worth first and then what only saves
        `asking` time, while some is missing."""
        unused = [
            (item.pool is asking, self.keep_worth(self.book.held(item.pool.function_id, now_s)), item)
            for item in self._by_function.values()
            if self._gives_to(item, asking)
        ]
        for _, _, template in sorted(unused, key=lambda each: each[:2]):
            if missing_mib() <= 0:
                return
            self._retire(template.pool, f"gives its memory to {asking.spec.label}")

    def distrust(self, pod: PodRecord) -> None:
        """It did not fork `pod` in time."""
        self._replace(pod, "does not fork")

    def _replace(self, pod: PodRecord, why: str) -> None:
        """The next pods come from another one. The pods that it has forked go on."""
        template = self._templates.get(pod.template_id)
        if template is not None and self._by_function.get(template.pool.function_id) is template:
            self._retire(template.pool, f"{template.template_id} {why}")

    def specs(self) -> list[FunctionSpec]:
        """One of each template that is there."""
        return [template.spec for template in self._templates.values()]

    def has(self, function_id: str) -> bool:
        return function_id in self._by_function

    def unused_mib(self, asking: FunctionPool, need_mib: Callable[[FunctionSpec], int]) -> int:
        """What `give_up_unused` may give it. need_mib: of a template's process."""
        items = self._by_function.values()
        return sum(item.held_mib + need_mib(item.spec) for item in items if self._gives_to(item, asking))

    def _gives_to(self, template: FunctionTemplate, asking: FunctionPool) -> bool:
        return (template.is_host_copy or template.pool is not asking) and self.is_unused(template.pool)

    def weights_mib(self, pool: FunctionPool) -> int:
        """What its template holds or would: as was last seen, else as the checkpoint, which may differ."""
        if (template := self._by_function.get(pool.function_id)) is not None:
            return template.held_mib
        seen_mib = self.book.held(pool.function_id, 0.0).held_mib
        return seen_mib or int(min(self.startups.size_bytes(pool.spec) >> 20, self.most_weights_mib(pool)))

    def note_size(self, event: events.WeightsFound) -> None:
        """Of what is to be fetched for a template."""
        if (item := self._templates.get(event.template_id)) is not None and item.state == "loading":
            self.startups.define(item.pool.spec, event.size_bytes)
            item.held_mib = item.held_mib or int(min(event.size_bytes >> 20, self.most_weights_mib(item.pool)))

    def held_mib(self) -> int:
        """Memory of what they have loaded, which they and their pods share."""
        return sum(template.held_mib for template in self._templates.values())

    def is_loading(self, pool: FunctionPool) -> bool:
        template = self._by_function.get(pool.function_id)
        return template is not None and template.state == "loading"

    def is_bound_to_one(self, pool: FunctionPool) -> bool:
        """A model that has no pod without its template. (With a `memory=` of their own they can do without.)"""
        is_free = pool.spec.kind == "model" and not pool.spec.resources.memory_mib
        return is_free and not self.may_hold_devices(pool.spec) and not self.book.refusal(pool.function_id)

    def use_of(self, pool: FunctionPool) -> TemplateUse:
        template = self._by_function.get(pool.function_id)
        if template is not None and template.state == "ready" and not template.is_host_copy:
            return "ready"
        is_refused = self.book.refusal(pool.function_id)
        return "none" if is_refused or not pool.spec.is_shared or self.may_hold_devices(pool.spec) else "needed"

    def is_loading_template(self, template_id: str) -> bool:
        template = self._templates.get(template_id)
        return template is not None and template.state == "loading"

    def note_pod(self, pod: PodRecord) -> None:
        """`pod` is ordered from its template."""
        template = self._templates[pod.template_id]
        template.pods.add(pod.pod_id)
        self.book.used(template.pool.function_id, pod.since_s)

    def note_ready(self, pool: FunctionPool, pod: PodRecord, event: events.ExecutorReady, now_s: float) -> None:
        """`pod`, of `pool`, has what it runs; it may have loaded it itself."""
        if self.may_hold_devices(pool.spec) and pool.spec.kind == "model":
            self.book.used(pool.function_id, now_s)
            if pool.function_id not in self._by_function:  # else it says what is left when the weights are there
                self.book.loaded(pool.function_id, event.weights.size_bytes >> 20, event.load_ms)
        if event.is_template_stale:
            self._replace(pod, "holds what has changed on disk")
        if event.load_ms > 0.0:
            self.book.loaded_in_pod(pool.function_id, event.load_ms)
            self.source(pool, 0, now_s)

    def note_gone(self, pod: PodRecord, pool: FunctionPool | None, now_s: float) -> None:
        """`pod`, of `pool`, has ended."""
        if (template := self._templates.get(pod.template_id)) is not None:
            template.pods.discard(pod.pod_id)
            if template.state == "ending" and not template.pods:
                self._stop(template, f"{template.pool.spec.label} is not used any more")
        if pool is not None and (current := self._by_function.get(pool.function_id)) is not None:
            current.used_s = now_s

    def forget(self, pool: FunctionPool) -> None:
        """The function is removed, or what waits for it is about to be told that it does not work."""
        self.book.forget(pool.function_id)
        self._retire(pool, f"{pool.spec.label} was removed")

    def drop_loading(self, pool: FunctionPool, text: str) -> None:
        if self.is_loading(pool):
            self._retire(pool, text)

    # --- inside ------------------------------------------------------------------------------------------

    def _view(self, pool: FunctionPool, missing: int) -> TemplateView:
        template = self._by_function.get(pool.function_id)
        state: Literal["none", "loading", "ready"] = "none"
        if template is not None and template.state != "ending":
            state = template.state
        return TemplateView(
            is_shared=pool.spec.is_shared,
            state=state,
            refusal=self.book.refusal(pool.function_id),
            missing=missing,
            num_pods=len(pool.pods),
            num_bound=sum(pod.state == "bound" for pod in pool.pods.values()),
            max_pods=pool.max_pods,
            load_ms=self.book.pod_load_ms(pool.function_id),
        )

    def _start(self, pool: FunctionPool, reason: str, now_s: float, is_ahead: bool = False) -> None:
        template_id = self._ids.new("template")
        ready_by_s = now_s + pool.spec.startup_timeout_s
        spec, is_host_copy = self.spec_of(pool), self.may_hold_devices(pool.spec)
        template = FunctionTemplate(template_id, pool, spec, is_host_copy, now_s, ready_by_s)
        template.held_mib = self.weights_mib(pool)  # until it tells
        self._templates[template_id] = self._by_function[pool.function_id] = template
        self._out.append(StartTemplate(template_id, pool.function_id, spec, reason, is_ahead, pool.queued > 0))
        self.startups.ordered(template_id, spec, NOTHING, now_s)
        self._alarms.set(ready_by_s, START_ALARM, template)

    def _retire(self, pool: FunctionPool, reason: str) -> None:
        """No pod is forked from it any more; it ends with the last that was."""
        template = self._by_function.pop(pool.function_id, None)
        if template is None:
            return
        template.state = "ending"
        if not template.pods:
            self._stop(template, reason)

    def _stop(self, template: FunctionTemplate, reason: str) -> None:
        """Its TemplateLost may come now, and says nothing new."""
        del self._templates[template.template_id]
        self._out.append(StopTemplate(template.template_id, reason))

    def _end(self, template_id: str) -> FunctionTemplate | None:
        """It is gone by itself."""
        template = self._templates.pop(template_id, None)
        if template is not None and self._by_function.get(template.pool.function_id) is template:
            del self._by_function[template.pool.function_id]
        return template

    def _refuse(self, template: FunctionTemplate, text: str) -> None:
        template.pool.pod_source = f"not snapshotted: {text}"
        self.book.refused(template.pool.function_id, template.pool.pod_source)

    def _watch_idleness(self, template: FunctionTemplate, at_s: float) -> None:
        template.has_idle_alarm = True
        self._alarms.set(at_s, IDLE_ALARM, template)

    # --- facts ---------------------------------------------------------------------------------------------

    def _on_ready(self, event: events.TemplateReady, now_s: float) -> None:
        template = self._templates.get(event.template_id)
        if template is None or template.state != "loading":
            return
        template.state, template.pid = "ready", event.pid
        template.held_mib = event.weights.size_bytes >> 20
        self.startups.template_ready(event, template.pool.spec, now_s)
        self.book.loaded(template.pool.function_id, template.held_mib, event.load_ms)
        self.told(template.pool, event.memory)
        template.used_s = now_s
        self._watch_idleness(template, now_s + self._window_s(template))
        self._owner.template_changed(template.pool, now_s)

    def _on_refused(self, event: events.TemplateRefused, now_s: float) -> None:
        if (template := self._end(event.template_id)) is not None:
            self.told(template.pool, event.memory)
            self._refuse(template, event.text)
            self._owner.template_changed(template.pool, now_s)

    def _on_failed(self, event: events.TemplateFailed, now_s: float) -> None:
        """Without a snapshot the pods load for themselves, and are free to fare better."""
        if (template := self._end(event.template_id)) is None or template.state == "ending":
            return
        if template.is_needed:
            self._owner.template_failed(template, event.text, event.payload, now_s)
        else:
            self._refuse(template, event.text)
            self._owner.template_changed(template.pool, now_s)

    def _on_lost(self, event: events.TemplateLost, now_s: float) -> None:
        if (template := self._end(event.template_id)) is None or template.state == "ending":
            return
        if template.state == "ready":
            template.pool.pod_source = f"its template is gone: {event.text}"
        elif template.is_needed:
            self._owner.template_lost(template, Failure("ended", event.text), now_s)
        else:
            self._refuse(template, event.text)
        self._owner.template_changed(template.pool, now_s)

    def alarm(self, kind: str, template: FunctionTemplate, now_s: float) -> None:
        if self._templates.get(template.template_id) is not template or template.state == "ending":
            return
        if kind == START_ALARM:
            if template.state == "loading" and now_s >= template.ready_by_s:
                self._end_slow_start(template, now_s)
            return
        template.has_idle_alarm = False
        window_s = self._window_s(template)
        if template.pool.pods or template.pods:
            self._watch_idleness(template, now_s + window_s)
        elif now_s < template.used_s + window_s:
            self._watch_idleness(template, template.used_s + window_s)
        elif self.is_expected(template.pool, now_s):
            self._watch_idleness(template, now_s + window_s)
        else:
            self._retire(template.pool, f"no pod for {window_s:g} s")
            self._owner.template_changed(template.pool, now_s)

    def _window_s(self, template: FunctionTemplate) -> float:
        return max(MIN_WINDOW_S, template.pool.window_s)

    def _end_slow_start(self, template: FunctionTemplate, now_s: float) -> None:
        pool = template.pool
        text = f"{template.template_id} was still loading {pool.spec.label} after {now_s - template.began_s:.3g} s"
        self._end(template.template_id)
        self._out.append(StopTemplate(template.template_id, text))
        if template.is_needed:
            self._owner.template_lost(template, Failure("loads slowly", text), now_s)
        else:
            self._refuse(template, text)
        self._owner.template_changed(pool, now_s)

    # --- checks --------------------------------------------------------------------------------------------

    def check_invariants(self, pods: dict[str, PodRecord]) -> None:
        for template in self._templates.values():
            label = template.pool.spec.label
            for pod_id in template.pods:
                assert pod_id in pods, f"{template.template_id} of {label} keeps the lost {pod_id}"
            assert template.state != "loading" or not template.pods, (
                f"{template.template_id} forked before it was ready"
            )
            assert template.state != "ending" or template.pods, f"{template.template_id} of {label} should have ended"
            assert not (template.is_host_copy and template.pods), f"{template.template_id} forked for other devices"
            if template.state == "ready":
                assert template.has_idle_alarm, f"{template.template_id} of {label} would stay for ever"
        for function_id, template in self._by_function.items():
            assert self._templates.get(template.template_id) is template, f"{function_id} keeps a lost template"
        for pod in pods.values():
            if pod.template_id and (of := self._templates.get(pod.template_id)) is not None:
                assert pod.pod_id in of.pods, f"{pod.pod_id} is not known to {pod.template_id}"
