"""Pods as processes of this machine, forked from one template per environment."""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Callable
from functools import partial

from deepserve.protocol.messages import (
    ForkPod,
    ForkPods,
    ForkTemplate,
    Message,
    PodExited,
    PodForked,
    TemplateFailed,
    TemplateReady,
)
from deepserve_controller.pod_providers.template_process import TemplateProcess, start_template
from deepserve_controller.service.links import Handler, Link
from deepserve_controller.service.pod_provider import PodExit
from deepserve_controller.service.processes import ChildReaper, kill_group, kill_orphans, kill_process, kill_tree
from deepserve_controller.service.reactor import Timer, running_reactor

StartTemplate = Callable[[str], TemplateProcess]
SWEEP_DELAY_S = 0.02
"""Orphans are looked for once after a burst of deaths."""
SILENCE_LIMIT_S = 20.0
"""A template forks in milliseconds. One that leaves an order unanswered for so long was stopped by a signal or hangs;
it is killed, its pods with it, and the next one is started: nothing of its environment could start else."""
NUM_REMEMBERED = 100
"""Pods whose start is still told."""


class Template:
    """The controller's side of one template process, an environment's or (named by its id) a function's."""

    def __init__(self, environment: str, pid: int, link: Link | None, provider: LocalPodProvider) -> None:
        """Without a link a function's template has still to dial in."""
        self.environment = environment
        self.pid = pid
        self.text = ""
        """Why it failed, where it said so."""
        self.waiting: set[str] = set()
        """Pods asked for and not forked yet."""
        self.steps_ms: dict[str, float] = {}
        self._provider = provider
        self._is_ready = False
        """Of an environment's template. A function's is watched by the core, which can spare its pods."""
        self._silence: Timer | None = None
        self._takes_many = link is not None
        self._orders: list[ForkPod] = []
        self._link = link or Link(handler=self)

    def open(self, process: TemplateProcess) -> None:
        self._link.open(process.connection)

    def fork(self, message: ForkPod) -> None:
        """Of a function's template: with all that are ordered at this instant."""
        self.waiting.add(message.pod_id)
        self._expect_answer()
        if not self._takes_many:
            self._link.send(message)
            return
        if not self._orders:
            running_reactor().call_soon(self._fork_all)
        self._orders.append(message)

    def _fork_all(self) -> None:
        orders, self._orders = self._orders, []
        self._link.send(ForkPods(tuple(orders)))

    def fork_template(self, message: ForkTemplate) -> None:
        self.waiting.add(message.template_id)
        self._expect_answer()
        self._link.send(message)

    def _expect_answer(self) -> None:
        if self._silence is None and self._is_ready and not self._takes_many:
            self._silence = running_reactor().call_later(SILENCE_LIMIT_S, self._end_silence)

    def _end_silence(self) -> None:
        self.text = f"the template {self.environment!r} did not answer for {SILENCE_LIMIT_S:g} s"
        kill_process(self.pid)  # the end of its link follows

    def _note_sign_of_life(self) -> None:
        if self._silence is not None:
            self._silence.cancel()
            self._silence = None

    def close(self) -> None:
        self._note_sign_of_life()
        self._link.abort()

    def frame_received(self, message: Message, payload: bytes) -> None:
        self._note_sign_of_life()
        match message:
            case PodForked():
                self.waiting.discard(message.pod_id)
                self._provider.pod_forked(self, message)
            case PodExited():
                self.waiting.discard(message.pod_id)
                self._provider.pod_exited(message.pod_id, message.pid, message.exit_code)
            case TemplateReady():
                self._is_ready = True
                self.steps_ms = message.steps_ms
            case TemplateFailed():
                self.text = message.text
                self._provider.template_ended(self)
            case _:
                self._link.close()
        if self.waiting:
            self._expect_answer()

    def link_closed(self) -> None:
        self._provider.template_ended(self)


class LocalPodProvider:
    """A PodProvider; see `service/pod_provider.py` for the promises."""

    def __init__(
        self,
        reaper: ChildReaper,
        socket_path: str,
        on_start_failed: Callable[[str, str], None],
        on_exit: PodExit,
        start_template: StartTemplate = start_template,
        started: dict[str, TemplateProcess] | None = None,
    ) -> None:
        """`started`: templates that already run, by environment (the first starts before the service does)."""
        self._reaper = reaper
        self._socket_path = socket_path
        self._on_start_failed = on_start_failed
        self._on_exit = on_exit
        self._start_template = start_template
        self._started = started or {}
        self._templates: dict[str, Template] = {}
        self._pids: dict[str, int] = {}
        """Forked pods, until their exit is known."""
        self._asked: dict[str, Template] = {}
        self._doomed: set[str] = set()
        """Killed before they were forked."""
        self._steps_ms: dict[str, dict[str, float]] = {}
        self._sweep: Timer | None = None
        self._is_closed = False

    # --- the provider's promises ---

    def warm_up(self, environment: str) -> None:
        self._template(environment)

    def start_pod(
        self, pod_id: str, environment: str, token: str, memory_mib: int, template_id: str = "", kv_bytes: int = 0
    ) -> None:
        template = self._templates.get(template_id) if template_id else self._template(environment)
        if template is None:
            name = template_id or repr(environment)
            text = f"the template {name} is gone" if template_id else f"the template {name} could not be started"
            return self._later(self._on_start_failed, pod_id, text)
        self._asked[pod_id] = template
        template.fork(ForkPod(pod_id, token, self._socket_path, memory_mib, kv_bytes))

    def start_template(self, template_id: str, environment: str, token: str, memory_mib: int) -> None:
        template = self._template(environment)
        if template is None:
            text = f"the template {environment!r} could not be started"
            return self._later(self._on_start_failed, template_id, text)
        self._asked[template_id] = template
        template.fork_template(ForkTemplate(template_id, token, self._socket_path, memory_mib))

    def join_template(self, template_id: str, pid: int, link: Link) -> Handler:
        template = Template(template_id, pid, link, self)
        self._templates[template_id] = template
        return template

    def kill_pod(self, pod_id: str, reason: str) -> None:
        pid = self._pids.get(pod_id)
        if pid is not None:
            kill_tree(pid)
            self._sweep_soon()
        elif pod_id in self._asked:
            self._doomed.add(pod_id)

    def start_steps_ms(self, pod_id: str) -> dict[str, float]:
        return self._steps_ms.get(pod_id, {})

    def close(self) -> None:
        self._is_closed = True
        if self._sweep is not None:
            self._sweep.cancel()
        for pid in self._pids.values():
            kill_tree(pid)
        for template in self._templates.values():
            template.close()
            kill_tree(template.pid)
        while self._templates_left():
            time.sleep(0.002)

    # --- what templates report ---

    def pod_forked(self, template: Template, message: PodForked) -> None:
        pod_id, pid = message.pod_id, message.pid
        if pod_id not in self._asked:
            return kill_process(pid)
        self._remember_steps(pod_id, template, message.fork_ms)
        self._pids[pod_id] = pid
        # Where its template dies, this process adopts the pod and sees its exit itself.
        self._reaper.watch(pid, lambda code: self.pod_exited(pod_id, pid, code))
        if pod_id in self._doomed:
            kill_tree(pid)

    def pod_exited(self, pod_id: str, pid: int, exit_code: int) -> None:
        if self._asked.pop(pod_id, None) is None:
            return
        self._doomed.discard(pod_id)
        if self._pids.pop(pod_id, None) is not None:
            self._reaper.forget(pid)
            kill_group(pid)  # what is left of it; what escaped the group is swept up below
        self._sweep_soon()
        self._on_exit(pod_id, exit_reason(exit_code), exit_code)

    def template_ended(self, template: Template) -> None:
        """Its starting pods fail. Its running ones are adopted by this process, which then sees their end itself."""
        if self._templates.get(template.environment) is not template:
            return
        del self._templates[template.environment]
        template.close()
        kill_process(template.pid)
        text = template.text or f"the template {template.environment!r} ended unexpectedly"
        for pod_id in sorted(template.waiting):
            self._asked.pop(pod_id, None)
            self._doomed.discard(pod_id)
            self._later(self._on_start_failed, pod_id, text)

    # --- inside ---

    def _template(self, environment: str) -> Template | None:
        template = self._templates.get(environment)
        if template is None and not self._is_closed:
            try:
                process = self._started.pop(environment, None) or self._start_template(environment)
            except OSError:
                return None
            template = Template(environment, process.pid, None, self)
            template.open(process)
            self._templates[environment] = template
            self._reaper.watch(process.pid, lambda code: self._template_exited(template, code))
        return template

    def _template_exited(self, template: Template, exit_code: int) -> None:
        template.text = template.text or f"the template {template.environment!r}: {exit_reason(exit_code)}"
        # What it wrote before it ended is still to be read: the link's end of file says when.

    def _templates_left(self) -> bool:
        self._reaper.reap()
        return any(os.path.exists(f"/proc/{template.pid}") for template in self._templates.values())

    def _sweep_soon(self) -> None:
        if self._sweep is None and not self._is_closed:
            self._sweep = running_reactor().call_later(SWEEP_DELAY_S, self._sweep_now)

    def _sweep_now(self) -> None:
        self._sweep = None
        spared = {template.pid for template in self._templates.values()} | set(self._pids.values())
        kill_orphans(spared, set(self._asked))

    def _remember_steps(self, pod_id: str, template: Template, fork_ms: float) -> None:
        started = {f"template: {name}": ms for name, ms in template.steps_ms.items()}
        self._steps_ms[pod_id] = {**started, "fork": fork_ms}
        while len(self._steps_ms) > NUM_REMEMBERED:
            del self._steps_ms[next(iter(self._steps_ms))]

    def _later(self, callback: Callable[[str, str], None], pod_id: str, text: str) -> None:
        running_reactor().call_soon(partial(callback, pod_id, text))


def exit_reason(exit_code: int) -> str:
    if exit_code >= 0:
        return f"ended with exit code {exit_code}"
    try:
        return f"killed by {signal.Signals(-exit_code).name}"
    except ValueError:
        return f"killed by signal {-exit_code}"
