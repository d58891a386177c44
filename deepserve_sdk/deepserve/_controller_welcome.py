"""ControllerWelcome: what the controller says of itself, first of all; it may be on its way still."""

from __future__ import annotations

import threading

from deepserve._event_loop import in_thread
from deepserve.errors import ControllerLost, DeepServeError
from deepserve.protocol.messages import Welcome

WELCOME_TIMEOUT_S = 30.0


class ControllerWelcome:
    """Thread-safe. Set once, by the thread that reads the link."""

    def __init__(self, said: Welcome | None) -> None:
        self.said = said
        """As far as it has come."""
        self._error: DeepServeError | None = None
        self._is_over = threading.Event()
        if said is not None:
            self._is_over.set()

    def put(self, said: Welcome) -> None:
        self.said = said
        self._is_over.set()

    def give_up(self, error: DeepServeError) -> None:
        """The link ended."""
        self._error = self._error or error
        self._is_over.set()

    def wait(self) -> Welcome:
        """Raises ControllerLost, or why the link ended."""
        if not self._is_over.wait(WELCOME_TIMEOUT_S) or self.said is None:
            raise self._error or ControllerLost(f"the controller said nothing for {WELCOME_TIMEOUT_S:.0f} s")
        return self.said

    async def wait_on_loop(self) -> None:
        """The same on an event loop, which goes on meanwhile."""
        if self.said is None:
            await in_thread(self.wait)

    @property
    def is_embedded(self) -> bool:
        """Only an embedded one is used before it has said anything."""
        return self.said is None or self.said.mode == "embedded"

    @property
    def folder(self) -> str:
        """Of the pods' files; empty while it is not known."""
        return self.said.folder if self.said is not None else ""

    def segments(self) -> str:
        """Folder for large values; waits for it."""
        return self.wait().segments
