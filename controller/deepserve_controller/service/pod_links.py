"""Pods as the service sees them: their one-time keys, their links, and how their end is noticed."""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Callable
from typing import TYPE_CHECKING

from deepserve.protocol.digest import sha256
from deepserve.protocol.messages import Hello
from deepserve.protocol.messages import StopPod as StopPodMessage
from deepserve_controller.core import actions, events
from deepserve_controller.errors import Refusal
from deepserve_controller.service.bundles import Bundles
from deepserve_controller.service.client_links import ClientMessages
from deepserve_controller.service.faults import Faults, When
from deepserve_controller.service.functions import Functions
from deepserve_controller.service.links import Link
from deepserve_controller.service.loop import CoreLoop
from deepserve_controller.service.pod_entry import PodEntry
from deepserve_controller.service.pod_link import PodLink
from deepserve_controller.service.pod_provider import PodProvider
from deepserve_controller.service.reactor import running_reactor
from deepserve_controller.service.recipients import Recipients
from deepserve_controller.service.requests import Requests
from deepserve_controller.service.tokens import is_same, new_token

if TYPE_CHECKING:
    from deepserve_controller.service.map_relay import MapRelay

EXIT_WAIT_S = 0.2
"""After a pod's end of file: how long its exit code may take to arrive."""
LAST_WORDS_S = 0.05
"""After a pod's exit: how long what it had sent may take to be read."""
NUM_ENDED = 64


class PodLinks:
    """All pods, from the order to start one until its end was reported."""

    def __init__(
        self, cores: CoreLoop, requests: Requests, functions: Functions, bundles: Bundles, recipients: Recipients
    ) -> None:
        self._cores = cores
        self._functions = functions
        self._requests = requests
        self._bundles = bundles
        self._recipients = recipients
        self.provider: PodProvider | None = None
        self.messages: ClientMessages | None = None
        self.map_relay: MapRelay | None = None
        self.pods: dict[str, PodEntry] = {}
        self.templates: dict[str, PodEntry] = {}
        """Of functions: they print like pods, and are not counted as any."""
        self._ended: dict[str, PodEntry] = {}
        """The last few: what they printed may still be on its way."""
        self.faults = Faults()
        self.is_ending = False
        cores.carry(actions.StartPod, self.start)
        cores.carry(actions.StopPod, self.stop)
        cores.carry(actions.KillPod, self.kill)

    # --- starts and ends, as the cores order them ---

    def start(self, action: actions.StartPod) -> None:
        if self.is_ending:
            return
        token = new_token()
        self.pods[action.pod_id] = PodEntry(
            pod_id=action.pod_id,
            environment=action.environment,
            token=token,
            log_keys=dict.fromkeys(("stdout", "stderr"), log_key(token)),
            started_at=time.time(),
            label=action.environment,
        )
        if (template := self.templates.get(action.template_id)) is not None:
            self.pods[action.pod_id].function_id = template.function_id
            self.pods[action.pod_id].label = template.label
        assert self.provider is not None
        self.provider.start_pod(
            action.pod_id, action.environment, token, action.memory_mib, action.template_id, action.kv_bytes
        )

    def stop(self, action: actions.StopPod) -> None:
        pod = self.pods.get(action.pod_id)
        if pod is None:
            return
        if pod.link is None:
            return self._kill(pod, action.reason)
        pod.state, pod.reason = "stopping", action.reason
        pod.send(StopPodMessage(action.reason))
        self._after(pod, action.grace_s, lambda: self._kill(pod, action.reason))

    def kill(self, action: actions.KillPod) -> None:
        if pod := self.pods.get(action.pod_id):
            self._kill(pod, action.reason)

    def linked(self, pod_id: str) -> PodEntry | None:
        """A pod that can be written to. Orders for one that just ended are moot: PodLost is on its way."""
        pod = self.pods.get(pod_id)
        return pod if pod is not None and pod.link is not None else None

    def die_at(self, when: When) -> None:
        """Nothing, but where a test has ordered that this controller is killed here."""
        if self.faults.kills_controller(when):
            os.kill(os.getpid(), signal.SIGKILL)

    # --- pods dialling in ---

    def join(self, link: Link, hello: Hello) -> PodLink:
        """Raises Refusal unless the key is this pod's and was not used before."""
        pod = self.pods.get(hello.name)
        if pod is None or not pod.token or not is_same(pod.token, hello.key):
            raise Refusal("key", "the join token is unknown or was used")
        pod.token = ""
        pod.link, pod.pid, pod.state = link, hello.pid, "warm"
        pod.scaling.note_joined(time.monotonic())
        self._recipients.add(pod.pod_id, link)
        return PodLink(pod, link, self, self._requests, self._cores, self._bundles)

    def joined(self, pod_id: str) -> None:
        """The welcome is written: the pod can be given work."""
        pod = self.pods[pod_id]
        self._cores.give(events.PodConnected(pod_id, pod.pid))

    def join_log(self, hello: Hello) -> tuple[str, str]:
        """Pod id and stream of a log connection. Raises Refusal."""
        pod_id, _, stream = hello.name.rpartition("/")
        pod = self.pods.get(pod_id) or self.templates.get(pod_id)
        key = pod.log_keys.get(stream, "") if pod else ""
        if pod is None or not key or not is_same(key, hello.key):
            raise Refusal("key", "the log key is unknown or was used")
        del pod.log_keys[stream]
        return pod_id, stream

    # --- the end of pods ---

    def start_failed(self, pod_id: str, text: str) -> None:
        """From the provider."""
        pod = self.pods.get(pod_id)
        if pod is not None:
            self._forget(pod)
            self._cores.give(events.PodStartFailed(pod_id, text))

    def exited(self, pod_id: str, reason: str, exit_code: int | None) -> None:
        """From the provider: the process is gone. What it had written is read before the pod is given up."""
        pod = self.pods.get(pod_id)
        if pod is None or pod.is_exit_known:
            return
        pod.is_exit_known, pod.exit_code = True, exit_code
        if pod.state == "starting" and not pod.is_killed:
            self._forget(pod)
            self._cores.give(events.PodStartFailed(pod_id, f"the pod {reason} before it dialled in"))
        elif pod.link is None:
            self._lost(pod)
        else:
            self._after(pod, LAST_WORDS_S, pod.link.abort)

    def link_closed(self, pod: PodEntry) -> None:
        pod.link = None
        self._recipients.remove(pod.pod_id)
        if pod.is_exit_known:
            return self._lost(pod)
        self._cores.give(events.PodDrainStarted(pod.pod_id))  # no call is given to it while its exit code is waited for
        if pod.state != "stopping":
            pod.state = "ending"
            assert self.provider is not None
            self.provider.kill_pod(pod.pod_id, "its connection ended")
        self._after(pod, EXIT_WAIT_S, lambda: self._give_up(pod))

    def stop_all(self, reason: str) -> None:
        """For shutdown: exit hooks run where there may be some, and no pod starts any more."""
        self.is_ending = True
        for pod in list(self.pods.values()):
            if pod.link is not None and pod.state != "warm":
                pod.send(StopPodMessage(reason))
            else:
                self._kill(pod, reason)

    def root_links(self, pod_id: str) -> tuple[str, ...]:
        """The clients whose work this pod does, or did last."""
        pod = self.find(pod_id)
        if pod is None:
            return ()
        running = self._requests.root_links_on(pod_id) or self._requests.root_links_for(pod.function_id)
        if running:
            pod.last_root_links = running
        return pod.last_root_links

    def find(self, pod_id: str) -> PodEntry | None:
        """Also one that ended lately."""
        return self.pods.get(pod_id) or self.templates.get(pod_id) or self._ended.get(pod_id)

    def start_steps_ms(self, pod: PodEntry) -> dict[str, float]:
        """How this pod came to be bound."""
        assert self.provider is not None
        bound = {f"bind: {step}": ms for step, ms in pod.steps_ms.items()}
        if pod.environment == "flowserve":
            bound = pod.scaling.steps_ms
        return {**self.provider.start_steps_ms(pod.pod_id), **bound}

    def label_of(self, pod_id: str) -> str:
        pod = self.find(pod_id)
        return pod.label if pod else pod_id

    def function_of(self, pod_id: str) -> str:
        """The id of the function that a living pod was bound to; empty where there is none."""
        pod = self.pods.get(pod_id)
        return pod.function_id if pod else ""

    # --- inside ---

    def _kill(self, pod: PodEntry, reason: str) -> None:
        pod.is_killed = True
        pod.reason = reason
        assert self.provider is not None
        self.provider.kill_pod(pod.pod_id, reason)

    def _give_up(self, pod: PodEntry) -> None:
        """The exit code did not come: the pod may have closed its link and live on."""
        if not pod.is_exit_known and pod.pod_id in self.pods:
            assert self.provider is not None
            self.provider.kill_pod(pod.pod_id, "its connection ended")
            self._lost(pod)

    def _lost(self, pod: PodEntry) -> None:
        if pod.pod_id not in self.pods:
            return
        self._forget(pod)
        self._requests.tasks.remove_pod(pod.pod_id)
        # Without a reason of our own the exit code says it all; without that too, the core says what is known.
        begun = self.map_relay.take_page(pod.pod_id) if self.map_relay is not None else {}
        self._cores.give(events.PodLost(pod.pod_id, pod.reason, pod.exit_code, begun))
        # Calls made inside it outside of any task (in an enter hook) have nobody to report to.
        self._requests.link_closed(pod.pod_id, pid=pod.pid)
        # What its code defined, to call it, has one holder less.
        self._functions.release_all(pod.pod_id)

    def _forget(self, pod: PodEntry) -> None:
        self.pods.pop(pod.pod_id, None)
        self.remember(pod)
        self._recipients.remove(pod.pod_id)
        for timer in pod.timers:
            timer.cancel()

    def remember(self, pod: PodEntry) -> None:
        """For what it printed last."""
        self._ended[pod.pod_id] = pod
        while len(self._ended) > NUM_ENDED:
            del self._ended[next(iter(self._ended))]

    def _after(self, pod: PodEntry, delay_s: float, callback: Callable[[], None]) -> None:
        pod.timers.append(running_reactor().call_later(delay_s, callback))


def log_key(token: str) -> str:
    """Of a pod's two log connections, derived from its join token."""
    return sha256((token + "/log").encode()).hexdigest()[:32]
