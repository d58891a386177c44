"""Results on their way into the arguments of other calls: the bytes, of which the cores know nothing."""

from __future__ import annotations

from collections.abc import Mapping
from typing import NamedTuple, Protocol

from deepserve.protocol.messages import Outcome, Value
from deepserve_controller.core.dependencies import dependency_outcome, gone_outcome, no_result_outcome
from deepserve_controller.core.events import NO_PAYLOAD, Payload
from deepserve_controller.service.results import KeptResults
from deepserve_controller.service.segments import Segments

Input = tuple[str, int]
"""Request id and index: -1 of a call, the input's of a map."""


class Unfinished(Protocol):
    kind: str


class Wanted(NamedTuple):
    """What an input still waits for; `broken`, with its payload, where it will never have all it wants."""

    unfinished: tuple[str, ...] = ()
    broken: Outcome | None = None
    payload: Payload = NO_PAYLOAD


class DependencyValues:
    """A result is held here for each input that wants it, under a name of its own where it lies in a segment, until
    that input has ended: it may be run again, and whoever made the first call may have forgotten it by then.
    """

    def __init__(self, kept: KeptResults, segments: Segments) -> None:
        self._kept = kept
        self._segments = segments
        self._values: dict[Input, list[Payload | None]] = {}
        self._wanted: dict[str, dict[Input, list[int]]] = {}
        """By unfinished request: who wants its result, and in which places."""
        self._inputs: dict[str, dict[int, tuple[str, ...]]] = {}
        """By request and index, what each input depends on."""

    def want(
        self, request_id: str, index: int, depends_on: tuple[str, ...], running: Mapping[str, Unfinished]
    ) -> Wanted:
        """`depends_on` are the arguments of this input, in their order; those that are there are taken now."""
        values: list[Payload | None] = [None] * len(depends_on)
        unfinished: dict[str, None] = {}
        for name in depends_on:
            record, kept = running.get(name), self._kept.get(name)
            if record is not None and record.kind != "call":
                return Wanted(broken=no_result_outcome(name, record.kind))
            if kept is not None and not kept.finished.outcome.is_ok:
                broken = dependency_outcome(kept.finished.outcome, name)
                return Wanted(broken=broken, payload=Payload(kept.finished.value, kept.data))
            if record is None and kept is None:
                return Wanted(broken=gone_outcome(name))
            if record is not None:
                unfinished[name] = None
        self.input_over(request_id, index)  # of a confused client, which sends one twice
        self._values[request_id, index] = values
        self._inputs.setdefault(request_id, {})[index] = depends_on
        for position, name in enumerate(depends_on):
            if name in unfinished:
                self._wanted.setdefault(name, {}).setdefault((request_id, index), []).append(position)
            elif (kept := self._kept.get(name)) is not None:
                values[position] = self._own(Payload(kept.finished.value, kept.data), request_id)
        return Wanted(tuple(unfinished))

    def finished(self, request_id: str, outcome: Outcome, payload: Payload) -> None:
        """Before anybody is told of it, who may remove it from shared memory."""
        for wanted_by, positions in self._wanted.pop(request_id, {}).items():
            for position in positions if outcome.is_ok else ():
                self._values[wanted_by][position] = self._own(payload, wanted_by[0])

    @property
    def num_waiting(self) -> int:
        """Calls that wait for results of others."""
        return sum(self.is_waiting(request_id) for request_id in self._inputs)

    def is_waiting(self, request_id: str) -> bool:
        return any(value is None for value in self._values.get((request_id, -1), ()))

    def of(self, request_id: str, index: int) -> tuple[tuple[Value, ...], bytes]:
        """What goes to the pod with this input: descriptions, and the bytes that lie in no segment."""
        if not self._values:
            return (), b""
        payloads = [payload for payload in self._values.get((request_id, index), ()) if payload is not None]
        return tuple(payload.value for payload in payloads), b"".join(payload.data for payload in payloads)

    def over(self, request_id: str) -> None:
        """The request has ended, with all its inputs."""
        for index in list(self._inputs.get(request_id, ())):
            self.input_over(request_id, index)

    def input_over(self, request_id: str, index: int) -> None:
        """One input has ended, and what it wanted, or still wants, is needed no more."""
        inputs = self._inputs.get(request_id)
        if inputs is None or index not in inputs:
            return
        for name in inputs.pop(index):
            if (wanted := self._wanted.get(name)) is not None:
                wanted.pop((request_id, index), None)
                if not wanted:
                    del self._wanted[name]
        if not inputs:
            del self._inputs[request_id]
        for payload in self._values.pop((request_id, index)):
            if payload is not None:
                self._segments.remove(payload.value.segment)

    def _own(self, payload: Payload, request_id: str) -> Payload:
        if payload.value.refs:
            self._segments.refs.carry(payload.value.refs, request_id)
        return Payload(self._segments.double(payload.value), payload.data) if payload.value.segment else payload
