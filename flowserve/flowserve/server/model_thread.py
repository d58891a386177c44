"""ModelThread: the one thread that computes a model, and what the event loop knows of it."""

from __future__ import annotations

import asyncio
import threading
import traceback
from collections.abc import Callable
from contextlib import suppress

from .api_error import ApiError


class ModelThread:
    """noun: what it computes, in errors.  work: all that the thread does.  end_all: told on the event loop where `work`
    raises, so that nobody waits for what will not come."""

    def __init__(self, noun: str, work: Callable[[], None], end_all: Callable[[str], None]) -> None:
        self._noun = noun
        self._work = work
        self._end_all = end_all
        self._ending: str | None = None
        self._thread = threading.Thread(target=self._run, name=f"flowserve-{noun}", daemon=True)

    def start(self) -> None:
        """On the event loop, which the thread will tell."""
        self._event_loop = asyncio.get_running_loop()
        self._thread.start()

    @property
    def is_alive(self) -> bool:
        return self._thread.is_alive() and self._ending is None

    def check(self) -> None:
        """Raises ApiError where it takes no work any more: 503 at the end, 500 where the thread broke."""
        if self._ending is not None:
            raise ApiError(503, self._ending)
        if not self._thread.is_alive():
            raise ApiError(500, f"the {self._noun} has ended")

    def end(self, reason: str) -> None:
        """It takes no more work; what it has goes on."""
        self._ending = reason

    async def join(self) -> None:
        await asyncio.to_thread(self._thread.join)

    def tell(self, news: Callable[[], None]) -> None:
        """From the thread: call this on the event loop."""
        with suppress(RuntimeError):  # the event loop is closed: nobody is left to tell
            self._event_loop.call_soon_threadsafe(news)

    def _run(self) -> None:
        try:
            self._work()
        except BaseException:
            traceback.print_exc()
            self.tell(lambda: self._end_all(f"the {self._noun} has ended"))
