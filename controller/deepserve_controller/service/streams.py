"""Streams on their way: which relay is whose, and what leaves it on which link."""

from __future__ import annotations

import msgspec

from deepserve.protocol.messages import AttachRequest, GrantCredit, LeaveStream, StreamItems, TaskOutputs, Value
from deepserve_controller.core import events
from deepserve_controller.service.loop import CoreLoop
from deepserve_controller.service.recipients import Recipients
from deepserve_controller.service.results import KeptResults
from deepserve_controller.service.segments import Segments
from deepserve_controller.service.stream_relay import Freed, StreamRelay


class Streams:
    """The relays of running streams; those that are kept after their end lie with their results."""

    def __init__(self, cores: CoreLoop, recipients: Recipients, kept: KeptResults, segments: Segments) -> None:
        self._cores = cores
        self._recipients = recipients
        self._kept = kept
        self._segments = segments
        self._running: dict[str, StreamRelay] = {}
        self._read_by: dict[str, set[str]] = {}
        """Requests whose items a link reads."""

    def open(self, request_id: str, link_id: str, keep: bool) -> None:
        """A stream that is kept waits for a reader to attach; another one is read by whoever asked for it."""
        relay = StreamRelay(request_id, keep, self._send, self._drop)
        self._running[request_id] = relay
        if not keep:
            relay.attach((link_id, 0), 0)
            self._read_by.setdefault(link_id, set()).add(request_id)

    def produced(self, request_id: str, pod_id: str, message: TaskOutputs, data: bytes) -> None:
        """Relays items; the core hears only how many there were."""
        relay = self._running.get(request_id)
        size_bytes = 0
        journal_bytes = len(message.journal)
        for value in message.values:
            size_bytes += value.size_bytes
            if value.segment:
                self._segments.announced(pod_id, value)
            if value.refs:
                self._segments.refs.carry(value.refs, _carrier(value))
        if relay is None:
            for value in message.values:
                self._drop(value)
            if journal_bytes:  # of a call: no items, but it has come further
                self._cores.give(events.TaskProduced(message.task_id, message.attempt, 0, 0, 0, journal_bytes))
            return
        relay.digest = message.digest
        freed = relay.add(message.offset, message.values, data)
        self._cores.give(
            events.TaskProduced(
                message.task_id, message.attempt, message.offset, len(message.values), size_bytes, journal_bytes
            )
        )
        self._pass_on(request_id, freed)

    def attach(self, link_id: str, message: AttachRequest) -> None:
        relay = self._find(message.request_id)
        if relay is not None and message.reader >= 0:
            self._read_by.setdefault(link_id, set()).add(message.request_id)
            self._pass_on(message.request_id, relay.attach((link_id, message.reader), max(0, message.from_offset)))

    def grant(self, link_id: str, message: GrantCredit) -> None:
        relay = self._find(message.request_id)
        if relay is None or message.items < 0 or message.size_bytes < 0:
            return
        try:
            freed = relay.grant((link_id, message.reader), message.items, message.size_bytes)
        except KeyError:  # it has left, or never was
            return
        self._pass_on(message.request_id, freed)

    def leave(self, link_id: str, message: LeaveStream) -> None:
        relay = self._find(message.request_id)
        if relay is not None:
            self._pass_on(message.request_id, relay.leave((link_id, message.reader)))
            if link_id not in relay.links():
                self._reads_no_more(link_id, message.request_id)

    def link_closed(self, link_id: str) -> None:
        for request_id in self._read_by.pop(link_id, ()):
            relay = self._find(request_id)
            if relay is not None:
                self._pass_on(request_id, relay.link_closed(link_id))

    def finished(self, request_id: str, keep: bool) -> StreamRelay | None:
        """The stream has ended; returns its relay where it is to be kept."""
        relay = self._running.pop(request_id, None)
        if relay is None:
            return None
        relay.over()
        if keep:
            return relay
        for link_id in relay.links():
            self._reads_no_more(link_id, request_id)
        relay.close()
        return None

    def forget(self, request_id: str) -> None:
        """Nobody will come back for a running stream."""
        if (relay := self._running.get(request_id)) is not None:
            relay.is_kept = False

    def digest(self, request_id: str) -> bytes:
        relay = self._running.get(request_id)
        return relay.digest if relay is not None else b""

    @property
    def num_read(self) -> int:
        """Streams that some link reads, counted once for each link."""
        return sum(len(request_ids) for request_ids in self._read_by.values())

    # --- inside ---

    def _reads_no_more(self, link_id: str, request_id: str) -> None:
        if (request_ids := self._read_by.get(link_id)) is not None:
            request_ids.discard(request_id)
            if not request_ids:
                del self._read_by[link_id]

    def _find(self, request_id: str) -> StreamRelay | None:
        relay = self._running.get(request_id)
        if relay is None and (kept := self._kept.get(request_id)) is not None:
            return kept.stream
        return relay

    def _pass_on(self, request_id: str, freed: Freed | None) -> None:
        if freed is not None and request_id in self._running:
            self._cores.give(events.CreditGranted(request_id, freed.items, freed.size_bytes))

    def _send(self, link_id: str, message: StreamItems, data: bytes, is_given: bool) -> None:
        """A reader unlinks the segments it has read, so each gets names of its own; without one they are removed."""
        link = self._recipients.get(link_id)
        for value in message.values:
            if value.refs:
                if link is not None:
                    self._segments.refs.given(value.refs, link_id)
                if is_given:
                    self._segments.refs.drop(_carrier(value))
        if any(value.segment for value in message.values):
            if link is None:
                for value in message.values if is_given else ():
                    self._drop(value)
                return
            if not is_given:
                values = tuple(self._segments.double(value) if value.segment else value for value in message.values)
                message = msgspec.structs.replace(message, values=values)
            for value in message.values:
                if value.segment:
                    self._segments.delivered(link_id, value.segment)
        if link is not None:
            link.send(message, data)

    def _drop(self, value: Value) -> None:
        self._segments.remove(value.segment)
        if value.refs:
            self._segments.refs.drop(_carrier(value))


def _carrier(value: Value) -> str:
    """Of the refs in an item that is held here: the very object, which lives as long."""
    return f"item {id(value)}"
