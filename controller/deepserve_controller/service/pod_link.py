"""What a pod may say, over the connection that it dialled."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from deepserve.protocol.journals import unpacked
from deepserve.protocol.map_messages import InputFinished, InputsFinished, InputsReturned
from deepserve.protocol.messages import (
    BundleContent,
    CancelReceived,
    EngineReport,
    ExecutorFailed,
    ExecutorReady,
    FetchBundle,
    Message,
    Outcome,
    PodEnding,
    TaskBlocked,
    TaskFinished,
    TaskOutputs,
    TaskPrepared,
    TaskReleased,
    TaskResumed,
)
from deepserve_controller.core import actions, events
from deepserve_controller.core.events import Payload
from deepserve_controller.errors import Refusal
from deepserve_controller.service.bundles import Bundles
from deepserve_controller.service.links import Link
from deepserve_controller.service.loop import CoreLoop
from deepserve_controller.service.pod_entry import MAX_DETAIL_CHARS, PodEntry
from deepserve_controller.service.requests import Requests

if TYPE_CHECKING:
    from deepserve_controller.service.map_relay import MapRelay
    from deepserve_controller.service.pod_links import PodLinks


class PodLink:
    """Handler of one pod's connection."""

    def __init__(
        self, pod: PodEntry, link: Link, pods: PodLinks, requests: Requests, cores: CoreLoop, bundles: Bundles
    ) -> None:
        self._pod = pod
        self._link = link
        self._pods = pods
        self._requests = requests
        self._cores = cores
        self._bundles = bundles
        self._takers: dict[type[Message], Callable[[Any, bytes], None]] = {
            TaskFinished: self._task_finished,
            TaskOutputs: self._task_output,
            InputsFinished: lambda message, data: self._maps.inputs_finished(pod.pod_id, message, data),
            InputFinished: lambda message, data: self._maps.input_finished(pod.pod_id, message, data),
            InputsReturned: lambda message, data: self._maps.inputs_returned(pod.pod_id, message, data),
            CancelReceived: lambda message, data: cores.give(events.CancelReceived(message.task_id, message.attempt)),
            PodEnding: lambda message, data: cores.give(
                events.PodEnding(pod.pod_id, message.reason[:MAX_DETAIL_CHARS])
            ),
            TaskPrepared: lambda message, data: cores.give(
                events.TaskPrepared(pod.pod_id, message.task_id, message.round, message.error[:MAX_DETAIL_CHARS])
            ),
            TaskReleased: self._task_released,
            TaskBlocked: lambda message, data: cores.give(events.TaskBlocked(message.task_id)),
            TaskResumed: lambda message, data: cores.give(events.TaskResumed(message.task_id)),
            EngineReport: self._engine_report,
            FetchBundle: self._fetch_bundle,
            ExecutorReady: self._executor_ready,
            ExecutorFailed: self._executor_failed,
        }

    def frame_received(self, message: Message, payload: bytes) -> None:
        taker = self._takers.get(type(message))
        if taker is not None:
            return taker(message, payload)
        messages = self._pods.messages
        if messages is None or not messages.take(self._pod.pod_id, self._link, message, payload):
            raise Refusal("garbage", f"{type(message).__name__} is not for a pod to say")

    @property
    def _maps(self) -> MapRelay:
        assert self._pods.map_relay is not None
        return self._pods.map_relay

    def link_closed(self) -> None:
        self._pods.link_closed(self._pod)

    def _task_finished(self, message: TaskFinished, data: bytes) -> None:
        is_current = self._requests.tasks.is_current(self._pod.pod_id, message.task_id, message.attempt)
        if message.value.segment:
            self._requests.offered.offer(self._pod.pod_id, message.value, is_current)
        if not is_current:
            return
        if reason := self._pods.faults.at_end(message.task_id, self._pod.pod_id):
            self._requests.offered.drop_unclaimed(message.value)
            return self._pods.kill(actions.KillPod(self._pod.pod_id, reason))
        self._requests.task_ended(message.task_id)
        self._cores.give(
            events.TaskFinished(
                task_id=message.task_id,
                attempt=message.attempt,
                outcome=Outcome(message.outcome.kind, message.outcome.detail[:MAX_DETAIL_CHARS]),
                run_ms=message.run_ms,
                payload=Payload(message.value, data),
                count=message.count,
                may_retry=message.may_retry,
                num_reruns=message.num_reruns,
                prompt=message.prompt,
            )
        )
        if message.value.segment:
            self._requests.offered.drop_unclaimed(message.value)

    def _task_output(self, message: TaskOutputs, data: bytes) -> None:
        if self._requests.tasks.is_current(self._pod.pod_id, message.task_id, message.attempt):
            self._requests.produced(*unpacked(message, data))
        else:
            for value in message.values:
                self._requests.offered.offer(self._pod.pod_id, value, is_current=False)

    def _task_released(self, message: TaskReleased, data: bytes) -> None:
        if self._requests.tasks.is_current(self._pod.pod_id, message.task_id, message.attempt):
            self._pods.die_at("released")
            self._requests.tasks.remove(message.task_id)
            self._cores.give(events.TaskReleased(message.task_id, message.attempt))

    def _engine_report(self, message: EngineReport, data: bytes) -> None:
        self._pod.pinned_blocks = message.pinned_blocks
        self._cores.give(events.EngineReported(self._pod.pod_id, message))
        if message.read_ms > 0.0:
            self._cores.give(events.WeightsRead(self._pod.pod_id, message.read_ms))

    def _fetch_bundle(self, message: FetchBundle, data: bytes) -> None:
        bundle = self._bundles.get(message.digest)
        if bundle is None:
            self._link.send(BundleContent(message.digest, "files", missing=True))
        else:
            self._link.send(BundleContent(message.digest, bundle.kind), bundle.data)

    def _executor_ready(self, message: ExecutorReady, data: bytes) -> None:
        self._pod.state, self._pod.steps_ms = "bound", message.steps_ms
        self._pod.scaling.note_ready(time.monotonic(), message.steps_ms, message.source, message.source_reason)
        load_ms = sum(message.steps_ms.values())
        self._cores.give(
            events.ExecutorReady(
                self._pod.pod_id,
                message.function_id,
                message.slots,
                load_ms,
                message.is_template_stale,
                message.weights,
                message.memory,
            )  # fmt: skip
        )
        self._pod.scaling.note_routable(time.monotonic())

    def _executor_failed(self, message: ExecutorFailed, data: bytes) -> None:
        payload = Payload(message.value, data)
        self._cores.give(
            events.ExecutorFailed(self._pod.pod_id, message.function_id, message.text[:MAX_DETAIL_CHARS], payload)
        )
