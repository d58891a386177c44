"""Waiting: how a process waits for what comes on its link. A task that waits gives its pod's slot back meanwhile; a
caller in a script reads the link itself where nobody else does."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Protocol

from deepserve import _context
from deepserve._blocked import BlockedTasks
from deepserve._inbox import Inbox
from deepserve.protocol.framing import Frame
from deepserve.protocol.messages import Message


class Leading(Protocol):
    """A link that a blocking caller may read itself; see LinkReader."""

    def begin_leading(self) -> None: ...
    def lead(self, is_awaited: Callable[[Frame], bool], /) -> bool: ...
    def step_aside(self) -> None: ...
    def stop_leading(self) -> None: ...


class Waiting:
    """Thread-safe. leading: of a script's link, where its callers may read it.  is_pod: those who wait are tasks."""

    def __init__(self, send: Callable[[Message], None], *, is_pod: bool, leading: Leading | None) -> None:
        self._is_pod = is_pod
        self._leading = leading
        self._blocked = BlockedTasks(send)

    def for_news(self, inbox: Inbox, timeout_s: float | None = None) -> bool:
        """Block until `inbox` has news. Returns False after the timeout."""
        if inbox.has_news:
            return True
        if not self._is_pod:
            self.step_aside()
            return inbox.wait(timeout_s)
        with self._blocking():
            return inbox.wait(timeout_s)

    def for_end(self, inbox: Inbox) -> None:
        """Block until the request has ended. The caller reads the link itself where nobody else does."""
        try:
            while not inbox.is_over:
                if self._leading is None or not self._leading.lead(inbox.is_finished_by):
                    self.for_news(inbox)
        except BaseException:
            # Ctrl-C, perhaps as the link was being left. Not in `abandon`: finalisers call that, amid a read.
            self.stop_leading()
            raise

    async def for_news_async(self, inbox: Inbox, timeout_s: float | None = None) -> bool:
        if inbox.has_news:
            return True
        with self._blocking():
            return await inbox.wait_async(timeout_s)

    def begin_leading(self) -> None:
        """`for_end` follows at once."""
        if self._leading is not None:
            self._leading.begin_leading()

    def step_aside(self) -> None:
        """Another thread reads the link from now on: this one waits for something else than the end of a call."""
        if self._leading is not None:
            self._leading.step_aside()

    def stop_leading(self) -> None:
        if self._leading is not None:
            self._leading.stop_leading()

    @contextmanager
    def _blocking(self) -> Iterator[None]:
        """The task that runs here waits meanwhile for something else than its own work."""
        task = _context.current_task.get() if self._is_pod else None
        if task is None:
            yield
            return
        self._blocked.enter(task.task_id)
        try:
            yield
        finally:
            self._blocked.leave(task.task_id)
