"""Who can be sent an answer: client links, pods' links, and the HTTP port."""

from __future__ import annotations

from collections.abc import Callable
from typing import Protocol

from deepserve.protocol.framing import Buffer
from deepserve.protocol.messages import Message


class Recipient(Protocol):
    def send(self, message: Message, payload: Buffer = b"") -> None: ...


class Connection(Recipient, Protocol):
    """A client's own, over a socket or a WebSocket."""

    is_paused: bool
    """Much of what was sent is unsent: output is dropped, and counted."""
    on_resume: Callable[[], None] | None


class Recipients:
    """Link id to link, while it is open."""

    def __init__(self) -> None:
        self._links: dict[str, Recipient] = {}

    def add(self, link_id: str, link: Recipient) -> None:
        self._links[link_id] = link

    def remove(self, link_id: str) -> None:
        self._links.pop(link_id, None)

    def get(self, link_id: str) -> Recipient | None:
        return self._links.get(link_id)

    def __contains__(self, link_id: str) -> bool:
        return link_id in self._links
