"""Templates of functions as the service sees them: started like pods, dialling in, and loading their function."""

from __future__ import annotations

import time

from deepserve.protocol.messages import (
    BindExecutor,
    BundleContent,
    FetchBundle,
    Hello,
    Message,
    TemplateFailed,
    TemplateReady,
    TemplateRefused,
    WeightsFound,
    Welcome,
)
from deepserve_controller.core import actions, events
from deepserve_controller.core.events import Event, Payload
from deepserve_controller.errors import Refusal
from deepserve_controller.service.bundles import Bundles
from deepserve_controller.service.links import Handler, Link
from deepserve_controller.service.loop import CoreLoop
from deepserve_controller.service.pod_entry import MAX_DETAIL_CHARS, PodEntry
from deepserve_controller.service.pod_links import PodLinks, log_key
from deepserve_controller.service.tokens import is_same, new_token


class TemplateLinks:
    """All functions' templates, from the order to start one until its process is gone."""

    def __init__(self, cores: CoreLoop, pods: PodLinks, bundles: Bundles) -> None:
        self._cores = cores
        self._pods = pods
        self._bundles = bundles
        self._orders: dict[str, BindExecutor] = {}
        """What each template is to load."""
        cores.carry(actions.StartTemplate, self.start)
        cores.carry(actions.StopTemplate, self.stop)

    @property
    def entries(self) -> dict[str, PodEntry]:
        return self._pods.templates

    # --- orders of the cores ---

    def start(self, action: actions.StartTemplate) -> None:
        if self._pods.is_ending:
            return
        token, spec = new_token(), action.spec
        self.entries[action.template_id] = PodEntry(
            pod_id=action.template_id,
            environment=spec.environment,
            token=token,
            log_keys=dict.fromkeys(("stdout", "stderr"), log_key(token)),
            started_at=time.time(),
            function_id=action.function_id,
            label=spec.label,
            reason=action.reason,
        )
        self._orders[action.template_id] = BindExecutor(
            action.function_id, spec, is_ahead=action.is_ahead, is_awaited=action.is_awaited
        )
        assert self._pods.provider is not None
        self._pods.provider.start_template(action.template_id, spec.environment, token, spec.resources.memory_mib)

    def stop(self, action: actions.StopTemplate) -> None:
        if (entry := self.entries.get(action.template_id)) is not None:
            entry.state = "stopping"
            assert self._pods.provider is not None
            self._pods.provider.kill_pod(action.template_id, action.reason)

    # --- templates dialling in ---

    def join(self, link: Link, hello: Hello, welcome: Welcome) -> Handler:
        """Raises Refusal unless the key is this template's and was not used before."""
        entry = self.entries.get(hello.name)
        if entry is None or not entry.token or not is_same(entry.token, hello.key):
            raise Refusal("key", "the join token is unknown or was used")
        entry.token, entry.link, entry.pid, entry.state = "", link, hello.pid, "loading"
        entry.scaling.note_joined(time.monotonic())
        assert self._pods.provider is not None
        handler = self._pods.provider.join_template(entry.pod_id, hello.pid, link)
        link.send(welcome)
        link.send(self._orders[entry.pod_id])
        return TemplateLink(entry, handler, self)

    def fetch(self, entry: PodEntry, message: FetchBundle) -> None:
        bundle = self._bundles.get(message.digest)
        assert entry.link is not None
        if bundle is None:
            entry.link.send(BundleContent(message.digest, "files", missing=True))
        else:
            entry.link.send(BundleContent(message.digest, bundle.kind), bundle.data)

    def link_closed(self, entry: PodEntry) -> None:
        """Of one that loads, how its process ended says more; others are gone before their pods' starts fail."""
        entry.link = None
        if entry.state == "ready":
            self._lost(entry.pod_id, "its connection ended")

    def give(self, event: Event) -> None:
        self._cores.give(event)

    # --- the end of templates and pods, from the provider ---

    def start_failed(self, pod_id: str, text: str) -> None:
        if not self._lost(pod_id, text):
            self._pods.start_failed(pod_id, text)

    def exited(self, pod_id: str, reason: str, exit_code: int | None) -> None:
        if not self._lost(pod_id, f"its template {reason}"):
            self._pods.exited(pod_id, reason, exit_code)

    def _lost(self, template_id: str, text: str) -> bool:
        entry = self.entries.pop(template_id, None)
        if entry is None:
            return False
        del self._orders[template_id]
        self._pods.remember(entry)
        self._cores.give(events.TemplateLost(template_id, text))
        return True


class TemplateLink:
    """Handler of one function's template: what it says of its loading, and through `pods` of its pods."""

    def __init__(self, entry: PodEntry, pods: Handler, templates: TemplateLinks) -> None:
        self._entry = entry
        self._pods = pods
        self._templates = templates

    def frame_received(self, message: Message, payload: bytes) -> None:
        template_id = self._entry.pod_id
        match message:
            case FetchBundle():
                self._templates.fetch(self._entry, message)
            case WeightsFound():
                self._templates.give(events.WeightsFound(template_id, message.size_bytes))
            case TemplateReady():
                self._entry.state = "ready"
                now_s = time.monotonic()
                self._entry.scaling.note_ready(now_s, message.steps_ms, message.source, message.source_reason)
                self._pods.frame_received(message, payload)
                load_ms, told = sum(message.steps_ms.values()), (message.source, message.weights, message.memory)
                self._templates.give(events.TemplateReady(template_id, message.pid, load_ms, *told))
            case TemplateRefused():
                self._entry.state = "ending"
                self._templates.give(
                    events.TemplateRefused(template_id, message.text[:MAX_DETAIL_CHARS], message.memory)
                )
            case TemplateFailed():
                self._entry.state = "ending"
                text = message.text[:MAX_DETAIL_CHARS]
                self._templates.give(events.TemplateFailed(template_id, text, Payload(message.value, payload)))
            case _:
                self._pods.frame_received(message, payload)

    def link_closed(self) -> None:
        self._templates.link_closed(self._entry)
        self._pods.link_closed()
