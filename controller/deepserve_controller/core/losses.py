"""Losses: what becomes of the tasks of a pod that is gone."""

from __future__ import annotations

from deepserve_controller.core.chunks import Chunks
from deepserve_controller.core.dispatcher import Dispatcher
from deepserve_controller.core.endings import pod_lost_outcome
from deepserve_controller.core.events import PodLost
from deepserve_controller.core.replay import lost_outcome
from deepserve_controller.core.retrying import Retrying
from deepserve_controller.core.stopping import Stopping
from deepserve_controller.core.task import EndTask


class Losses:
    """A part of the job executor."""

    def __init__(
        self, dispatcher: Dispatcher, chunks: Chunks, stopping: Stopping, retrying: Retrying, end_task: EndTask
    ) -> None:
        self._dispatcher = dispatcher
        self._chunks = chunks
        self._stopping = stopping
        self._retrying = retrying
        self._end_task = end_task

    def on_pod_lost(self, event: PodLost, now_s: float) -> None:
        is_blamed = not self._dispatcher.executors.is_ending(event.pod_id)
        self._chunks.on_pod_lost(event)
        for lost in reversed(self._dispatcher.executors.forget_pod(event.pod_id)):
            task = self._chunks.isolate(lost, now_s)
            if task is None:
                continue
            if task.state == "stopping":
                self._stopping.end(task, "pod lost", now_s)
            elif not self._retrying.after_loss(task, is_blamed, now_s):
                outcome = pod_lost_outcome(event.pod_id, event.reason, event.exit_code, task.pod_losses)
                self._end_task(task, lost_outcome(task, outcome), now_s)
