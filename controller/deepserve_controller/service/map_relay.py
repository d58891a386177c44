"""Maps on their way through: many inputs and many results in a frame, whose payloads nobody here looks into."""

from __future__ import annotations

import contextlib
import os

from deepserve.protocol import begun_page
from deepserve.protocol.framing import FrameError
from deepserve.protocol.map_messages import (
    AssignChunk,
    InputFinished,
    InputsFinished,
    InputsReturned,
    ItemsFinished,
    MapInputs,
    RecallInputs,
)
from deepserve.protocol.messages import Outcome
from deepserve_controller.core import actions, events
from deepserve_controller.core.events import Payload
from deepserve_controller.errors import Refusal
from deepserve_controller.service.loop import CoreLoop
from deepserve_controller.service.pod_entry import MAX_DETAIL_CHARS
from deepserve_controller.service.pod_links import PodLinks
from deepserve_controller.service.pod_orders import PodOrders
from deepserve_controller.service.requests import Requests
from deepserve_controller.service.results import Delivery

MAX_INPUTS = 4096
"""Of one frame; the SDK sends at most 128."""


class MapRelay:
    """segments: the folder of shared memory, where pods on this host keep the pages of what has begun."""

    def __init__(self, cores: CoreLoop, requests: Requests, pods: PodLinks, orders: PodOrders, segments: str) -> None:
        self._cores = cores
        self._requests = requests
        self._pods = pods
        self._orders = orders
        self._segments = segments
        cores.carry(actions.SendChunk, self._send_chunk)
        cores.carry(actions.SendRecall, self._send_recall)
        cores.carry(actions.ForgetChunk, self._forget_chunk)
        cores.carry(actions.FinishItems, self._finish_items)
        pods.map_relay = self

    # --- from clients ---

    def inputs(self, message: MapInputs, data: bytes) -> None:
        """Raises Refusal where the sizes are not those of the payload."""
        _check_sizes(message.sizes, data)
        if message.request_id in self._requests.running:
            self._cores.give(
                events.MapInputsArrived(message.request_id, message.first_index, message.sizes, data, message.python)
            )

    # --- to pods ---

    def _send_chunk(self, action: actions.SendChunk) -> None:
        message = AssignChunk(
            action.task_id,
            action.attempt,
            action.request_id,
            action.job_id,
            action.first_index,
            action.sizes,
            action.method,
            action.limit_s,
            action.time_left_s,
            action.python,
        )
        try:
            self._orders.send_work(action, message, action.data)
        except FrameError as error:  # each of its inputs is as unsendable as all of them
            refused = Outcome("refused", f"the inputs cannot be sent: {error}")
            for position in range(len(action.sizes)):
                self._cores.give(events.InputFinished(action.task_id, action.attempt, position, refused, 0.0))

    def _send_recall(self, action: actions.SendRecall) -> None:
        self._orders.send_to(action.pod_id, RecallInputs(action.task_id, action.attempt))
        count = self._read_page(action.pod_id).get((action.task_id, action.attempt))
        if count is not None:
            self._cores.give(events.InputsBegun(action.task_id, action.attempt, count))

    def _forget_chunk(self, action: actions.ForgetChunk) -> None:
        place = self._requests.tasks.get(action.task_id)
        if place is not None and place.attempt == action.attempt:
            self._requests.task_ended(action.task_id)

    # --- from pods ---

    def inputs_finished(self, pod_id: str, message: InputsFinished, data: bytes) -> None:
        _check_sizes(message.sizes, data)
        is_current = self._requests.tasks.is_current(pod_id, message.task_id, message.attempt)
        if is_current and not self._is_killed_now(pod_id, message.task_id):
            self._cores.give(
                events.InputsFinished(
                    message.task_id,
                    message.attempt,
                    message.position,
                    message.sizes,
                    data,
                    message.run_ms,
                    message.python,
                )
            )

    def input_finished(self, pod_id: str, message: InputFinished, data: bytes) -> None:
        is_current = self._requests.tasks.is_current(pod_id, message.task_id, message.attempt)
        if message.value.segment:
            self._requests.offered.offer(pod_id, message.value, is_current)
        if is_current and not self._is_killed_now(pod_id, message.task_id):
            outcome = Outcome(message.outcome.kind, message.outcome.detail[:MAX_DETAIL_CHARS])
            self._cores.give(
                events.InputFinished(
                    message.task_id,
                    message.attempt,
                    message.position,
                    outcome,
                    message.run_ms,
                    Payload(message.value, data),
                    message.may_retry,
                )
            )
        if is_current and message.value.segment:
            self._requests.offered.drop_unclaimed(message.value)

    def _is_killed_now(self, pod_id: str, task_id: str) -> bool:
        """A test has ordered that this outcome be lost with its pod."""
        reason = self._pods.faults.at_end(task_id, pod_id)
        if reason:
            self._pods.kill(actions.KillPod(pod_id, reason))
        return bool(reason)

    def inputs_returned(self, pod_id: str, message: InputsReturned, data: bytes) -> None:
        if self._requests.tasks.is_current(pod_id, message.task_id, message.attempt):
            self._cores.give(
                events.InputsReturned(message.task_id, message.attempt, message.position, message.running_ms / 1e3)
            )

    def take_page(self, pod_id: str) -> dict[tuple[str, int], int]:
        """Of a pod that is dead: what had begun. The page is gone then."""
        begun = self._read_page(pod_id)
        with contextlib.suppress(OSError):
            os.unlink(os.path.join(self._segments, begun_page.file_name(pod_id)))
        return begun

    def _read_page(self, pod_id: str) -> dict[tuple[str, int], int]:
        """Empty where the pod keeps none: it had no chunk, or is on another host."""
        try:
            with open(os.path.join(self._segments, begun_page.file_name(pod_id)), "rb") as page:
                return begun_page.read(page.read(begun_page.PAGE_BYTES))
        except OSError:
            return {}

    # --- to clients ---

    def _finish_items(self, action: actions.FinishItems) -> None:
        record = self._requests.running.get(action.request_id)
        if record is None:
            return
        message = ItemsFinished(action.request_id, action.first_index, action.sizes, action.timings, action.python)
        self._requests.deliver_item(record, Delivery(action.first_index, message, action.data))


def _check_sizes(sizes: list[int], data: bytes) -> None:
    if len(sizes) > MAX_INPUTS:
        raise Refusal("too_large", f"{len(sizes)} inputs of a map in one frame (limit {MAX_INPUTS})")
    if not sizes or min(sizes) < 0 or sum(sizes) != len(data):
        raise Refusal("garbage", f"{len(sizes)} values that are said to have {sum(sizes)} bytes, in {len(data)} bytes")
