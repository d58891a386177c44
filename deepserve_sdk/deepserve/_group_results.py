"""GroupResults: what has come of a spawned map, for all in this process who hold it."""

from __future__ import annotations

import threading
from typing import Any

from deepserve._client import Client
from deepserve._inbox import Deadline, Inbox
from deepserve._map_outputs import MapOutputs, with_index
from deepserve.errors import DeepServeError


class GroupResults:
    """Thread-safe. total: how many inputs there are, None where only the controller knows as yet."""

    def __init__(self, client: Client, inbox: Inbox, label: str, total: int | None) -> None:
        self.inbox = inbox
        self.label = label
        self.num_failed = 0
        self._client = client
        self._total = total
        self._outputs = MapOutputs(client, label)
        self._order: list[int] = []
        self._taken: dict[int, tuple[Any, BaseException | None]] = {}
        self._missing: list[int] | None = None
        """Inputs without a result, once no more will come."""
        self._lock = threading.RLock()
        self._waiting = threading.Lock()
        """Held by the one thread that waits for news on behalf of all."""

    @property
    def num_done(self) -> int:
        return len(self._order)

    def know_total(self, total: int) -> None:
        self._total = total

    def total(self) -> int:
        """Waits for the end of a group that was attached to before its inputs were all there."""
        while self._total is None:
            finished = self.inbox.finished  # looked at before the items, which come before the end
            self.collect()
            if finished is not None:
                self._total = max(finished.count, max(self._order, default=-1) + 1)
            elif self.inbox.error is not None:
                raise self.inbox.own_error() or self.inbox.error
            else:
                self.wait(None)
        return self._total

    def collect(self) -> None:
        """Take over what has arrived."""
        if not self.inbox.items:
            return
        with self._lock:
            alone = self._outputs.collect(self.inbox)
            self.num_failed += sum(1 for message in alone if not message.outcome.is_ok)
            while self._outputs.arrived:
                self._order.append(self._outputs.arrived.popleft())

    def has(self, index: int) -> bool:
        """Its result is there, or will never be."""
        is_over = self.inbox.is_over  # looked at before the items, which come before the end
        self.collect()
        return index in self._outputs or index in self._taken or is_over

    def index_at(self, position: int, in_order: bool) -> int | None:
        """The input whose result is given as number `position`, None as long as it is not there."""
        if in_order:
            return position if (self._total is None or position < self._total) and self._is_there(position) else None
        self.collect()
        if position < len(self._order):
            return self._order[position]
        # Of a group that was stopped, what has no result comes last.
        missing = self._find_missing() if self.inbox.is_over and not self.inbox.items else []
        after = position - len(self._order)
        return missing[after] if after < len(missing) else None

    def _is_there(self, index: int) -> bool:
        if not self.has(index):
            return False
        return index in self._outputs or index in self._taken or index < self.total()

    def _find_missing(self) -> list[int]:
        """Asked for once for each of them."""
        if self._missing is None:
            self._missing = sorted(set(range(self.total())) - set(self._order))
        return self._missing

    def is_complete(self, position: int) -> bool:
        """All results before `position` were all that there are."""
        if self._total is None and not self.inbox.is_over:
            return False
        return position >= self.total()

    def wait(self, index: int | None, timeout_s: float | None = None) -> bool:
        """Until something has come. Where several threads wait, one does so for all, and the others look again."""
        deadline = Deadline.after(timeout_s)
        left_s = deadline.left_s
        if not self._waiting.acquire(timeout=-1 if left_s is None else min(left_s, threading.TIMEOUT_MAX)):
            return False
        try:
            if index is not None and self.has(index):
                return True
            return self._client.waiting.for_news(self.inbox, deadline.left_s)
        finally:
            self.collect()
            self._waiting.release()

    async def wait_async(self, timeout_s: float | None = None) -> bool:
        try:
            return await self._client.waiting.for_news_async(self.inbox, timeout_s)
        finally:
            self.collect()

    def take(self, index: int, return_exceptions: bool = False) -> Any:
        """Decoded once. Raises the input's error, with `input_index`, or what ended the group before it."""
        with self._lock:
            if index not in self._taken:
                self.collect()  # all of it may have come before anybody waited for it
                self._taken[index] = self._decode(index)
            value, error = self._taken[index]
        if error is None:
            return value
        if return_exceptions and isinstance(error, Exception):
            return error
        raise error

    def _decode(self, index: int) -> tuple[Any, BaseException | None]:
        try:
            if index in self._outputs:
                return self._outputs.take(index), None
            self._client.values.result(self.inbox, self.label)
            raise DeepServeError(f"{self.label}: the output of input {index} never came")
        except Exception as error:
            return None, with_index(error, index)

    def let_go(self, *, forget: bool) -> None:
        """Nobody holds it here any more. forget: the controller need not keep it either, if all of it was taken."""
        self._client.inboxes.release(self.inbox)
        self._outputs.discard_all()
        if forget and self._total is not None and len(self._taken) >= self._total:  # its end may still be on its way
            self._client.outgoing.forget_later(self.inbox.request_id)
