"""The client that this process's calls use: connected at the first of them, or installed by the pod."""

from __future__ import annotations

import os
import threading

from deepserve import _context
from deepserve._client import Client
from deepserve.errors import ControllerLost, UnguardedCallError

_client: Client | None = None
_client_lock = threading.Lock()


def install(client: Client | None) -> None:
    """Make `client` the one that this process's calls use."""
    global _client
    _client = client


def installed_client() -> Client | None:
    return _client


def current_client(environment: str = "") -> Client:
    """The process's client; finds or starts a controller where there is none yet.

    environment: that of the function which is about to be called, where its imports take long: a controller that has
    to be started begins with them, before it has heard of the function.

    Raises UnguardedCallError while a pod imports the user's module, ControllerUnreachable where none can be had.
    """
    client = _client
    if client is not None and client.outgoing.closed is None and not _context.importing:
        return client
    if _context.importing:
        raise UnguardedCallError(
            f"a remote call stands at the top level of {_context.importing}, which a pod is importing now: "
            "guard it with `if __name__ == '__main__':`"
        )
    if client is not None and (client.is_pod or client.is_exiting):
        raise client.closed or ControllerLost("this pod's link ended")
    with _client_lock:
        if _client is None or _client.closed is not None:
            from deepserve._controller_choice import connect

            install(connect(environment))
        assert _client is not None
        return _client


def _after_fork_in_child() -> None:
    """A forked child has no reader thread: it must not use its parent's link."""
    global _client, _client_lock
    _client_lock = threading.Lock()
    inherited, _client = _client, None
    if inherited is not None:
        inherited.end_in_fork()
        _client = inherited if inherited.is_pod else None


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_after_fork_in_child)
