"""TlsSocket: a TLS connection that one thread reads while another writes, which OpenSSL by itself does not allow."""

from __future__ import annotations

import select
import ssl
import threading
import time
from typing import Any


class TlsSocket:
    """One operation at a time, none of which waits; waiting for the network is done outside the lock.

    Stands in for the socket that `websockets` holds. (The interpreter locks by itself from 3.13 on.)
    """

    def __init__(self, connection: ssl.SSLSocket) -> None:
        self._tls = connection
        self._lock = threading.Lock()
        self._timeout_s: float | None = None
        connection.setblocking(False)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._tls, name)

    def settimeout(self, timeout_s: float | None) -> None:
        self._timeout_s = timeout_s

    def recv(self, max_bytes: int) -> bytes:
        """Raises TimeoutError, OSError."""
        until_s = self._until_s()
        while True:
            try:
                with self._lock:
                    return self._tls.recv(max_bytes)
            except ssl.SSLWantReadError:
                self._wait(select.POLLIN, until_s)
            except ssl.SSLWantWriteError:
                self._wait(select.POLLOUT, until_s)

    def sendall(self, data: bytes) -> None:
        """Raises TimeoutError, OSError."""
        until_s = self._until_s()
        view = memoryview(data).cast("B")
        while view:
            try:
                with self._lock:
                    view = view[self._tls.send(view) :]
            except ssl.SSLWantReadError:
                self._wait(select.POLLIN, until_s)
            except ssl.SSLWantWriteError:
                self._wait(select.POLLOUT, until_s)

    def _until_s(self) -> float | None:
        return None if self._timeout_s is None else time.monotonic() + self._timeout_s

    def _wait(self, event: int, until_s: float | None) -> None:
        poller = select.poll()
        poller.register(self._tls, event)
        wait_ms = None if until_s is None else max(0.0, until_s - time.monotonic()) * 1e3
        if not poller.poll(wait_ms):
            raise TimeoutError("the controller did not answer in time")
