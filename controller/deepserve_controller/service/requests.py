"""Requests on their way: what the service must know to relay them, which the cores do not see."""

from __future__ import annotations

import time

from msgspec.structs import replace

from deepserve.protocol.messages import (
    AttachRequest,
    ItemFinished,
    MapEnd,
    MapInput,
    OpenRequest,
    RequestFinished,
    StoreRef,
    TaskOutputs,
)
from deepserve_controller.core import events
from deepserve_controller.core.actions import FinishItem, FinishRequest, SendChunk, SendTask
from deepserve_controller.core.events import Payload
from deepserve_controller.errors import Refusal
from deepserve_controller.service.contexts import ContextRefused, Contexts
from deepserve_controller.service.deliveries import Deliveries
from deepserve_controller.service.dependencies import DependencyValues, Wanted
from deepserve_controller.service.functions import Functions
from deepserve_controller.service.loop import CoreLoop
from deepserve_controller.service.offered_result import OfferedResult
from deepserve_controller.service.recent_requests import RecentRequests
from deepserve_controller.service.recipients import Recipients
from deepserve_controller.service.request_record import RequestRecord
from deepserve_controller.service.request_tally import RequestTally
from deepserve_controller.service.results import Delivery, KeptResults
from deepserve_controller.service.route_log import RouteLog
from deepserve_controller.service.segments import Segments
from deepserve_controller.service.streams import Streams
from deepserve_controller.service.task_places import TaskPlace, TaskPlaces
from deepserve_controller.settings import log_level

MAX_NAME_CHARS = 1000
"""They come back in other messages, whose headers are bounded too."""

UNKNOWN_REQUEST = "unknown request: there never was one, or its result is kept no longer"


class Requests:
    """The table of running requests and their tasks."""

    def __init__(
        self,
        cores: CoreLoop,
        recipients: Recipients,
        functions: Functions,
        kept: KeptResults,
        segments: Segments,
        contexts: Contexts | None = None,
    ) -> None:
        self._cores = cores
        self._functions = functions
        self._kept = kept
        self._segments = segments
        self.refs = segments.refs
        self._deliveries = Deliveries(recipients, segments)
        self.dependencies = DependencyValues(kept, segments)
        self.streams = Streams(cores, recipients, kept, segments)
        self.contexts = Contexts() if contexts is None else contexts
        self.running: dict[str, RequestRecord] = {}
        self.tasks = TaskPlaces()
        self.routes = RouteLog.of_setting(log_level())
        self._tally = RequestTally()
        self.recent = RecentRequests()
        self.offered = OfferedResult(segments)

    # --- from links ---

    def open(self, link_id: str, message: OpenRequest, data: bytes) -> None:
        """Raises Refusal."""
        request_id = message.request_id
        if max(map(len, (request_id, message.function_id, message.method, message.context_id))) > MAX_NAME_CHARS:
            raise Refusal("garbage", f"OpenRequest with a name of more than {MAX_NAME_CHARS} characters")
        if request_id in self.running or request_id in self._kept:
            return self._deliveries.refuse(link_id, request_id, f"request {request_id} exists already")
        record = self._record(link_id, message)
        wanted = Wanted()
        if message.depends_on:
            wanted = self.dependencies.want(request_id, -1, message.depends_on, self.running)
        payload = Payload(message.value, data)
        if message.context_id:
            try:
                payload = self.contexts.opened(message, payload, record.label)
            except ContextRefused as error:
                wanted = Wanted(broken=error.outcome)
        self.running[request_id] = record
        self._tally.began(record.function_id, record.root_link_id)
        if message.kind == "stream":
            self.streams.open(request_id, link_id, message.keep)
        self._cores.give(
            events.RequestArrived(
                request_id=request_id,
                link_id=link_id,
                function_id=message.function_id,
                kind=message.kind,
                method=message.method,
                parent_task_id=message.parent_task_id,
                timeout_s=message.timeout_s,
                keep=message.keep,
                payload=wanted.payload if wanted.broken else payload,
                depends_on=wanted.unfinished,
                broken=wanted.broken,
                is_ahead=message.is_ahead,
            )
        )

    def _record(self, link_id: str, message: OpenRequest) -> RequestRecord:
        """Of a new request, whose argument counts as its own from here on."""
        parent = self.tasks.get(message.parent_task_id) if message.parent_task_id else None
        parent_record = self.running.get(parent.request_id) if parent else None
        record = RequestRecord(
            request_id=message.request_id,
            link_id=link_id,
            root_link_id=parent_record.root_link_id if parent_record else link_id,
            function_id=message.function_id,
            label=self._functions.label(message.function_id),
            kind=message.kind,
            parent_task_id=message.parent_task_id,
            keep=message.keep,
            arrived_at=time.time(),
        )
        if message.value.segment:
            self._segments.announced(link_id, message.value)
            record.segments[-1] = message.value.segment
        if message.value.refs:
            self.refs.carry(message.value.refs, message.request_id)
        return record

    def map_input(self, message: MapInput, data: bytes) -> None:
        record = self.running.get(message.request_id)
        if record is None:  # the request ended while the input was on its way
            return self._segments.remove(message.value.segment)
        if message.value.segment:
            self._segments.announced(record.link_id, message.value)
            record.segments[message.index] = message.value.segment
        if message.value.refs:
            self.refs.carry(message.value.refs, message.request_id)
        payload = Payload(message.value, data)
        if not message.depends_on:
            return self._cores.give(events.MapInputArrived(message.request_id, message.index, payload))
        wanted = self.dependencies.want(message.request_id, message.index, message.depends_on, self.running)
        payload = wanted.payload if wanted.broken else payload
        self._cores.give(
            events.MapInputArrived(message.request_id, message.index, payload, wanted.unfinished, wanted.broken)
        )

    def map_end(self, message: MapEnd) -> None:
        record = self.running.get(message.request_id)
        if record is not None:
            record.num_inputs = message.count
            self._cores.give(events.MapInputsEnded(message.request_id, message.count))

    def cancel(self, request_id: str, force: bool) -> None:
        if request_id in self.running:
            self._cores.give(events.RequestCancelled(request_id, force))

    def attach(self, link_id: str, message: AttachRequest) -> None:
        """Deliver an existing request to one more link: at once what is there, later what comes."""
        request_id, from_offset = message.request_id, message.from_offset
        self.streams.attach(link_id, message)
        record = self.running.get(request_id)
        kept = None if record else self._kept.get(request_id)
        deliveries = record.held if record else kept.items if kept else ()
        for delivery in deliveries:
            if delivery.position >= from_offset:
                self._deliveries.send(link_id, delivery.message, delivery.data, is_last_reader=False)
        if record is not None:
            if link_id != record.link_id and link_id not in record.listeners:
                record.listeners.append(link_id)
        elif kept is not None:
            self._deliveries.send(link_id, kept.finished, kept.data, is_last_reader=False)
        else:
            self._deliveries.refuse(link_id, request_id, UNKNOWN_REQUEST, "unknown")

    def forget(self, request_id: str) -> None:
        record = self.running.get(request_id)
        if record is not None:
            record.keep = False
            self.streams.forget(request_id)
            while record.held:
                self._segments.remove(record.held.popleft().segment)
        else:
            self._kept.forget(request_id)

    def store_ref(self, link_id: str, message: StoreRef) -> None:
        self._segments.announced(link_id, message.value)
        self.refs.store(link_id, message)

    def link_opened(self, pid: int) -> None:
        self._segments.link_opened(pid)

    def link_closed(self, link_id: str, pid: int = 0) -> None:
        """pid: of the process at the other end, 0 for one elsewhere."""
        for record in self.running.values():
            if link_id in record.listeners:
                record.listeners.remove(link_id)
        self.streams.link_closed(link_id)
        self._segments.link_closed(link_id, pid)
        self._cores.give(events.LinkClosed(link_id))
        self.refs.link_closed(link_id)

    # --- from and to pods ---

    def task_sent(self, action: SendTask | SendChunk) -> tuple[str, ...]:
        """Returns whose work it is: the client, while it is there to be answered."""
        self.tasks.put(action.task_id, TaskPlace(action.request_id, action.attempt, action.pod_id))
        record = self.running.get(action.request_id)
        if record is None:
            return ()
        record.pod_id = action.pod_id
        if isinstance(action, SendTask):
            self.routes.note(action)
        return (record.root_link_id,)

    def root_links_on(self, pod_id: str) -> tuple[str, ...]:
        """The clients whose tasks run on this pod."""
        running = (self.running.get(place.request_id) for place in self.tasks.on_pod(pod_id))
        return tuple(dict.fromkeys(record.root_link_id for record in running if record is not None))

    def is_running(self, function_id: str) -> bool:
        return self._tally.has_function(function_id)

    def root_links_for(self, function_id: str) -> tuple[str, ...]:
        """The clients who wait for a function."""
        return self._tally.links_for(function_id)

    def task_ended(self, task_id: str) -> None:
        place = self.tasks.get(task_id)
        if place is not None and (record := self.running.get(place.request_id)) is not None:
            record.journals.pop(task_id, None)
        self.tasks.remove(task_id)

    def produced(self, message: TaskOutputs, data: bytes) -> None:
        place = self.tasks[message.task_id]
        if message.journal and (record := self.running.get(place.request_id)) is not None:
            record.journals.setdefault(message.task_id, bytearray()).extend(message.journal)
        self.streams.produced(place.request_id, place.pod_id, message, data)

    def journal(self, request_id: str, task_id: str) -> bytes:
        record = self.running.get(request_id)
        return bytes(record.journals.get(task_id, b"")) if record is not None else b""

    # --- from the job executor ---

    def finish_item(self, action: FinishItem) -> None:
        record = self.running.get(action.request_id)
        if record is None:
            return
        self.offered.claim(action.payload.value)
        self._segments.remove(record.segments.pop(action.index, ""))
        self.dependencies.input_over(action.request_id, action.index)
        item = ItemFinished(action.request_id, action.index, action.outcome, action.timings, action.payload.value)
        self.deliver_item(record, Delivery(action.index, item, action.payload.data))

    def finish(self, action: FinishRequest) -> None:
        record = self.running.pop(action.request_id, None)
        self.offered.claim(action.payload.value)
        outcome = self.contexts.finished(action.request_id, action.outcome, bytes(action.payload.data))
        if outcome is not action.outcome:
            action = replace(action, outcome=outcome)
        self.dependencies.finished(action.request_id, action.outcome, action.payload)
        self.dependencies.over(action.request_id)
        finished = RequestFinished(
            request_id=action.request_id,
            outcome=action.outcome,
            timings=action.timings,
            value=action.payload.value,
            count=action.count,
        )
        if record is None:
            return self._deliveries.send(action.link_id, finished, action.payload.data, is_last_reader=True)
        self._tally.ended(record.function_id, record.root_link_id)
        for name in record.segments.values():
            self._segments.remove(name)
        stream = self.streams.finished(action.request_id, record.keep)
        if record.keep:
            self._kept.put(action.request_id, list(record.held), finished, action.payload.data, stream)
        self._deliveries.send_to_all(record, finished, action.payload.data, is_kept=record.keep)
        # While the caller goes on:
        self.recent.note(record, action, self.routes.text_of(record.request_id))
        self.refs.drop(action.request_id)

    def deliver_item(self, record: RequestRecord, delivery: Delivery) -> None:
        """Results of a map's inputs, to those who listen; kept, where the request is."""
        if record.keep:
            record.held.append(delivery)
            if refs := delivery.refs:
                self.refs.carry(refs, record.request_id)
        self._deliveries.send_to_all(record, delivery.message, delivery.data, is_kept=record.keep)
