"""Messages that begin and end a connection to the controller, whoever opens it."""

from __future__ import annotations

from typing import Literal

from deepserve.protocol.message_parts import Message


class Hello(Message, frozen=True):
    """First frame of every connection.

    role `client`: `name` is the client's id, `key` empty on an owner-checked unix socket.
    role `pod`: `name` is the pod id, `key` its one-time join token.
    role `template`: of a function; `name` is the template id, `key` its one-time join token.
    role `log`: `name` is `<pod id>/stdout` or `<pod id>/stderr`, `key` the same token's log key;
    after this frame the connection carries raw bytes.
    """

    version: int
    role: Literal["client", "pod", "log", "template"]
    name: str
    key: str = ""
    python: str = ""
    pid: int = 0


class Welcome(Message, frozen=True):
    version: int
    controller_id: str
    mode: Literal["embedded", "up"]
    python: str = ""
    folder: str = ""
    """The controller's private folder on this host (bundles are unpacked under `folder/bundles`)."""
    segments: str = ""
    """Folder of shared-memory segments; empty for a client on another host."""
    missing_packages: tuple[str, ...] = ()
    """What models need and the environment of an `up` has not; an embedded one's is the client's own."""


class Refused(Message, frozen=True):
    """The connection is closed after this frame. code: version, key, garbage, too_large.

    To the owner of an embedded controller that cannot start: state_in_use, start.
    """

    code: str
    text: str


LinkMessage = Hello | Welcome | Refused
