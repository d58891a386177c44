"""A listening unix socket."""

from __future__ import annotations

import os
import socket
from collections.abc import Callable

from deepserve_controller.service.reactor import Timer, running_reactor

BACKLOG = 512
PAUSE_S = 0.1


class Listener:
    """Hands every connection that comes to `accept`. Only this user may connect."""

    def __init__(self, path: str, accept: Callable[[socket.socket], None]) -> None:
        """Raises OSError."""
        self._accept = accept
        self._pausing: Timer | None = None
        self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        self._socket.setblocking(False)
        self._socket.bind(path)
        os.chmod(path, 0o600)
        self._socket.listen(BACKLOG)
        running_reactor().watch(self._socket.fileno(), self._on_ready)

    def _on_ready(self, events: int) -> None:
        """All that wait: pods come in bursts."""
        while True:
            try:
                connection, _ = self._socket.accept()
            except (BlockingIOError, ConnectionAbortedError):  # none is left, or it went away again
                return
            except OSError:
                return self._pause()
            self._accept(connection)

    def _pause(self) -> None:
        """No descriptor is free: those who knock wait, and must not keep the loop awake meanwhile."""
        reactor, fd = running_reactor(), self._socket.fileno()
        reactor.unwatch(fd)
        self._pausing = reactor.call_later(PAUSE_S, lambda: reactor.watch(fd, self._on_ready))

    def close(self) -> None:
        if self._pausing is not None:
            self._pausing.cancel()
        running_reactor().unwatch(self._socket.fileno())
        self._socket.close()
