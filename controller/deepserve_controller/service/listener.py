"""A listening unix socket."""

from __future__ import annotations

import os
import socket
from collections.abc import Callable

from deepserve_controller.service.reactor import running_reactor

BACKLOG = 512


class Listener:
    """Hands every connection that comes to `accept`. Only this user may connect."""

    def __init__(self, path: str, accept: Callable[[socket.socket], None]) -> None:
        """Raises OSError."""
        self._accept = accept
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
            except OSError:  # none is left, or it went away again, or no descriptor is free: those wait
                return
            self._accept(connection)

    def close(self) -> None:
        running_reactor().unwatch(self._socket.fileno())
        self._socket.close()
