"""Who may come in: the first frame of every connection."""

from __future__ import annotations

import contextlib
import os
import socket
import sys
from collections.abc import Callable

import msgspec

from deepserve.protocol import PROTOCOL_VERSION
from deepserve.protocol.framing import encode_frame
from deepserve.protocol.ids import IdAllocator
from deepserve.protocol.messages import Hello, Refused, Welcome
from deepserve_controller.errors import AlreadyRunning, ControllerError, Refusal
from deepserve_controller.service.client_links import ClientLink
from deepserve_controller.service.links import Handler, Link, RawHandler
from deepserve_controller.service.logs import LogLink, Logs
from deepserve_controller.service.pod_links import PodLinks
from deepserve_controller.service.recipients import Connection
from deepserve_controller.service.template_links import TemplateLinks

MakeClient = Callable[[str, Connection, Hello], ClientLink]
REFUSAL_S = 5.0
"""For an owner to read why its controller does not start."""


def python_version() -> str:
    return f"{sys.version_info.major}.{sys.version_info.minor}"


class Doorkeeper:
    """Answers Hello with Welcome and gives the connection its handler, or refuses it."""

    def __init__(
        self, welcome: Welcome, pods: PodLinks, templates: TemplateLinks, logs: Logs, make_client: MakeClient
    ) -> None:
        self._welcome = welcome
        self._templates = templates
        self._pods = pods
        self._logs = logs
        self._make_client = make_client
        self._ids = IdAllocator()

    def greet(self, link: Link, hello: Hello) -> Handler | RawHandler:
        """Of a connection to a listening unix socket. Raises Refusal."""
        self._check_version(hello)
        if link.peer_uid() != os.getuid():
            raise Refusal("key", "only the user who started this controller may connect")
        if hello.role == "pod":
            return self._greet_pod(link, hello)
        if hello.role == "template":
            return self._templates.join(link, hello, self._welcome)
        if hello.role == "log":
            pod_id, stream = self._pods.join_log(hello)
            return LogLink(pod_id, "stderr" if stream == "stderr" else "stdout", self._logs)
        return self._greet_client(link, hello)

    def greet_owner(self, link: Link, hello: Hello) -> Handler:
        """Of the inherited connection: whoever holds its other end started this process."""
        self._check_version(hello)
        return self._greet_client(link, hello)

    def greet_remote(self, connection: Connection, hello: Hello) -> ClientLink:
        """Of a WebSocket, whose key was checked before it was opened: a client that shares nothing with this host.

        Raises Refusal.
        """
        self._check_version(hello)
        if hello.role != "client":
            raise Refusal("key", f"a {hello.role} cannot come over the network")
        connection.send(msgspec.structs.replace(self._welcome, segments=""))
        # Its process id means another process here.
        return self._make_client(self._ids.new("link"), connection, msgspec.structs.replace(hello, pid=0))

    def _check_version(self, hello: Hello) -> None:
        if hello.version != PROTOCOL_VERSION:
            raise Refusal("version", f"peer speaks version {hello.version}, this controller {PROTOCOL_VERSION}")

    def _greet_client(self, link: Link, hello: Hello) -> Handler:
        link.send(self._welcome)
        return self._make_client(self._ids.new("link"), link, hello)

    def _greet_pod(self, link: Link, hello: Hello) -> Handler:
        handler = self._pods.join(link, hello)
        link.send(self._welcome)
        self._pods.joined(hello.name)
        return handler


def refuse_owner(fd: int, error: ControllerError) -> None:
    """Who started this process, which ends now, is told why."""
    refused = Refused("state_in_use" if isinstance(error, AlreadyRunning) else "start", str(error))
    with contextlib.suppress(OSError), socket.socket(fileno=fd) as owner:
        owner.settimeout(REFUSAL_S)
        owner.sendall(encode_frame(refused))
        owner.shutdown(socket.SHUT_WR)
        while owner.recv(1 << 16):
            pass  # its calls, until it has read that: a write to a link that is gone would fail before
