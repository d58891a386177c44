"""Results of requests whose caller may come back for them."""

from __future__ import annotations

import time
from collections import OrderedDict
from collections.abc import Callable
from typing import NamedTuple

import msgspec

from deepserve.protocol.map_messages import ItemsFinished
from deepserve.protocol.messages import ItemFinished, RequestFinished
from deepserve_controller.service.segments import Segments
from deepserve_controller.service.stream_relay import StreamRelay

RESULT_BYTES = 900
DELIVERY_BYTES = 800
"""What it takes to keep one, beside its own bytes (measured): a million small results are not nothing."""


class Delivery(NamedTuple):
    """Some items of a map, as they are sent. position: the (first) index."""

    position: int
    message: ItemFinished | ItemsFinished
    data: bytes

    @property
    def size_bytes(self) -> int:
        return len(self.data) or (0 if isinstance(self.message, ItemsFinished) else self.message.value.size_bytes)

    @property
    def refs(self) -> tuple[str, ...]:
        return () if isinstance(self.message, ItemsFinished) else self.message.value.refs

    @property
    def segment(self) -> str:
        return "" if isinstance(self.message, ItemsFinished) else self.message.value.segment


class KeptResult(msgspec.Struct, frozen=True):
    items: list[Delivery]
    finished: RequestFinished
    data: bytes
    until_s: float
    stream: StreamRelay | None = None

    @property
    def size_bytes(self) -> int:
        own = len(self.data) or self.finished.value.size_bytes
        own += self.stream.held_bytes if self.stream is not None else 0
        return own + sum(item.size_bytes for item in self.items)

    @property
    def held_bytes(self) -> int:
        """With what it takes to keep it."""
        return self.size_bytes + RESULT_BYTES + DELIVERY_BYTES * len(self.items)


class KeptResults:
    """In memory, for `ttl_s` and within `max_bytes`: the oldest are dropped first."""

    def __init__(
        self, segments: Segments, ttl_s: float, max_bytes: int, call_at: Callable[[float, Callable[[], None]], object]
    ) -> None:
        """call_at: of the loop, so that an idle controller keeps nothing beyond its time."""
        self._call_at = call_at
        self._has_timer = False
        self._segments = segments
        self._ttl_s = ttl_s
        self._max_bytes = max_bytes
        self._results: OrderedDict[str, KeptResult] = OrderedDict()
        self.total_bytes = 0

    def __contains__(self, request_id: str) -> bool:
        return request_id in self._results

    def __len__(self) -> int:
        return len(self._results)

    def put(
        self,
        request_id: str,
        items: list[Delivery],
        finished: RequestFinished,
        data: bytes,
        stream: StreamRelay | None = None,
    ) -> None:
        now_s = time.monotonic()
        result = KeptResult(items, finished, data, now_s + self._ttl_s, stream)
        self._results[request_id] = result
        for refs in (finished.value.refs, *(item.refs for item in items)):
            if refs:
                self._segments.refs.carry(refs, _carrier(request_id))
        self.total_bytes += result.held_bytes
        self.expire(now_s)
        self._set_timer()
        while self.total_bytes > self._max_bytes and len(self._results) > 1:
            self.forget(next(iter(self._results)))

    def _set_timer(self) -> None:
        """For the oldest one; there is none while nothing is kept."""
        if self._results and not self._has_timer:
            self._has_timer = True
            self._call_at(next(iter(self._results.values())).until_s, self._on_time)

    def _on_time(self) -> None:
        self._has_timer = False
        self.expire(time.monotonic())
        self._set_timer()

    def get(self, request_id: str) -> KeptResult | None:
        self.expire(time.monotonic())
        return self._results.get(request_id)

    def forget(self, request_id: str) -> None:
        result = self._results.pop(request_id, None)
        if result is None:
            return
        self.total_bytes -= result.held_bytes
        self._segments.refs.drop(_carrier(request_id))
        self._segments.remove(result.finished.value.segment)
        for item in result.items:
            self._segments.remove(item.segment)
        if result.stream is not None:
            result.stream.close()

    def expire(self, now_s: float) -> None:
        while self._results:
            request_id, result = next(iter(self._results.items()))
            if result.until_s > now_s:
                return
            self.forget(request_id)


def _carrier(request_id: str) -> str:
    """Of the refs in a kept result."""
    return f"kept {request_id}"
