"""What the cores order of pods that have dialled in, as messages on their links."""

from __future__ import annotations

import time

from deepserve.protocol.framing import Buffer, FrameError
from deepserve.protocol.journals import packed
from deepserve.protocol.messages import (
    AssignTask,
    BindExecutor,
    CancelTask,
    Message,
    Outcome,
    PrepareTask,
    ReleaseTask,
    SleepExecutor,
    TaskCredit,
)
from deepserve_controller.core import actions, events
from deepserve_controller.service.loop import CoreLoop
from deepserve_controller.service.pod_links import PodLinks
from deepserve_controller.service.requests import Requests


class PodOrders:
    """Has no state: what a pod is doing stands in its PodEntry, and for whom in Requests."""

    def __init__(self, cores: CoreLoop, requests: Requests, pods: PodLinks) -> None:
        self._cores = cores
        self._requests = requests
        self._pods = pods
        cores.carry(actions.BindPod, self._bind)
        cores.carry(actions.SleepPod, self._sleep)
        cores.carry(actions.SendTask, self._send_task)
        cores.carry(actions.SendPrepare, self._send_prepare)
        cores.carry(actions.SendRelease, self._send_release)
        cores.carry(actions.SendCancel, self._send_cancel)
        cores.carry(actions.SendCredit, self._send_credit)

    def send_work(self, action: actions.SendTask | actions.SendChunk, message: Message, data: Buffer) -> None:
        """Raises FrameError where the message is too large."""
        root_links = self._requests.task_sent(action)
        if pod := self._pods.linked(action.pod_id):
            if reason := self._pods.faults.at_start(action.task_id, action.pod_id):
                return self._pods.kill(actions.KillPod(pod.pod_id, reason))
            pod.last_root_links = root_links  # what it prints may be read only after its outcome
            pod.send(message, data)

    def send_to(self, pod_id: str, message: Message) -> None:
        if pod := self._pods.linked(pod_id):
            pod.send(message)

    def send_to_all(self, label: str, message: Message) -> None:
        """To those that run this function, class or model, in whatever version of it."""
        for pod in list(self._pods.pods.values()):
            if pod.label == label and pod.state == "bound" and pod.link is not None:
                pod.send(message)

    # --- inside ---

    def _bind(self, action: actions.BindPod) -> None:
        if pod := self._pods.linked(action.pod_id):
            pod.state, pod.function_id, pod.label = "binding", action.function_id, action.spec.label
            pod.scaling.note_taken(time.monotonic())
            kind, ids = action.devices.kind, action.devices.ids
            pod.send(BindExecutor(action.function_id, action.spec, kind, ids, kv_bytes=action.kv_bytes))

    def _sleep(self, action: actions.SleepPod) -> None:
        self.send_to(action.pod_id, SleepExecutor(action.level, action.reason))

    def _send_task(self, action: actions.SendTask) -> None:
        dependencies, results = self._requests.dependencies.of(action.request_id, action.index)
        message = AssignTask(
            task_id=action.task_id,
            attempt=action.attempt,
            request_id=action.request_id,
            job_id=action.job_id,
            kind=action.kind,
            method=action.method,
            index=action.index,
            time_left_s=action.time_left_s,
            credit=action.credit,
            value=action.payload.value,
            dependencies=dependencies,
            credit_bytes=action.credit_bytes,
            replay=action.replay,
            resume_offset=action.resume_offset,
            resume_digest=self._requests.streams.digest(action.request_id) if action.resume_offset else b"",
            journal=self._requests.journal(action.request_id, action.task_id) if action.attempt > 1 else b"",
        )
        data = action.payload.data
        try:
            self.send_work(action, *packed(message, data + results if results else data))
        except FrameError as error:
            self._requests.task_ended(action.task_id)
            refused = Outcome("refused", f"the task cannot be sent: {error}")
            self._cores.give(events.TaskFinished(action.task_id, action.attempt, refused, 0.0))

    def _send_prepare(self, action: actions.SendPrepare) -> None:
        journal = self._requests.journal(action.request_id, action.task_id)
        if pod := self._pods.linked(action.pod_id):
            if reason := self._pods.faults.at_move("prepare", action.pod_id):
                return self._pods.kill(actions.KillPod(pod.pod_id, reason))
            message = PrepareTask(action.task_id, action.round, action.method, action.payload.value, journal)
            pod.send(*packed(message, action.payload.data))
            self._pods.die_at("prepare")

    def _send_release(self, action: actions.SendRelease) -> None:
        self._pods.die_at("release")
        if pod := self._pods.linked(action.pod_id):
            if reason := self._pods.faults.at_move("release", action.pod_id):
                return self._pods.kill(actions.KillPod(pod.pod_id, reason))
            pod.send(ReleaseTask(action.task_id, action.attempt))

    def _send_cancel(self, action: actions.SendCancel) -> None:
        if pod := self._pods.linked(action.pod_id):
            pod.send(CancelTask(action.task_id, action.attempt, action.reason))

    def _send_credit(self, action: actions.SendCredit) -> None:
        if pod := self._pods.linked(action.pod_id):
            pod.send(TaskCredit(action.task_id, action.items, action.size_bytes))
