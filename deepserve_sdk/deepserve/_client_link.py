"""A script's client on its link, from the first word on it to the end of the process."""

from __future__ import annotations

import atexit
import os
import sys
from collections.abc import Callable
from typing import TYPE_CHECKING
from weakref import WeakSet

from deepserve import settings
from deepserve._client import Client
from deepserve._link import Link
from deepserve._pickling import PYTHON
from deepserve.errors import DeepServeError
from deepserve.protocol import PROTOCOL_VERSION
from deepserve.protocol.messages import Hello, Message

if TYPE_CHECKING:
    from deepserve._embedded_controller import EmbeddedController
    from deepserve._websocket_link import WebSocketLink

_links: WeakSet[Link | WebSocketLink] = WeakSet()
"""Of this process, as long as they live: a forked child drops its copies."""


def hello_of(client_id: str) -> Hello:
    return Hello(PROTOCOL_VERSION, "client", client_id, "", PYTHON, os.getpid())


def client_on(
    link: Link | WebSocketLink,
    client: Client,
    on_frame: Callable[[Message, bytes], object],
    on_closed: Callable[[DeepServeError], None],
    child: EmbeddedController | None = None,
) -> Client:
    """From here on the link is read, and at the end of this process it is closed, unless it has ended by then."""
    owner_pid = os.getpid()
    is_leaving = False

    def leave(is_exiting: bool) -> None:
        nonlocal is_leaving
        is_leaving = True
        if os.getpid() == owner_pid:
            client.is_exiting = is_exiting
            _leave(client, link, child)

    def end(error: DeepServeError) -> None:
        on_closed(error)
        if not is_leaving:
            atexit.unregister(leave)  # it would keep all that the client had, for each controller that was lost
            if child is not None:
                child.clean_up_later()

    client.leave = leave
    atexit.register(leave, True)
    _links.add(link)
    link.start_reader(on_frame, end)
    return client


def _leave(client: Client, link: Link | WebSocketLink, child: EmbeddedController | None) -> None:
    """Close the link, which is an embedded controller's lifeline, and wait until it has cleaned up."""
    pending = client.inboxes.num_open
    if pending and client.controller.is_embedded and client.closed is None:
        calls = "call was" if pending == 1 else "calls were"
        say(f"{pending} {calls} still pending at the end of the script and {'is' if pending == 1 else 'are'} cancelled")
    link.close()
    if child is not None:
        child.end()


def disconnect() -> None:
    """End this process's link, and an embedded controller with all that it started; the next call connects anew."""
    from deepserve._current_client import install, installed_client

    client = installed_client()
    if client is not None and not client.is_pod:
        install(None)
        atexit.unregister(client.leave)
        client.leave(False)


def say(text: str) -> None:
    if not settings.current_settings().quiet and sys.stderr is not None:
        print(f"deepserve: {text}", file=sys.stderr)


def _abandon_links() -> None:
    for link in list(_links):
        link.abandon()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_abandon_links)
