"""A controller that runs on this machine: its socket, and the way there."""

from __future__ import annotations

import os
import socket
import stat

from deepserve import settings
from deepserve._client import Client
from deepserve._client_link import client_on, hello_of, say
from deepserve._link import Link
from deepserve.errors import ControllerUnreachable, ProtocolError
from deepserve.protocol.messages import Refused, Welcome

CONNECT_TIMEOUT_S = 3.0


def up_socket() -> str:
    """Where this user's `deepserve up` listens."""
    return os.path.join(settings.runtime_folder(), "up.sock")


def is_listening(path: str) -> bool:
    """A socket of this user lies there and somebody accepts on it."""
    try:
        check_owner(path)
        with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as probe:
            probe.settimeout(CONNECT_TIMEOUT_S)
            probe.connect(path)
    except (OSError, ControllerUnreachable):
        return False
    return True


def check_owner(path: str) -> None:
    """Raises ControllerUnreachable unless `path` is a socket of this user in a folder of this user, OSError if gone."""
    for name, is_right in ((os.path.dirname(path), stat.S_ISDIR), (path, stat.S_ISSOCK)):
        found = os.lstat(name)
        if not is_right(found.st_mode) or found.st_uid != os.getuid():
            raise ControllerUnreachable(f"{name} does not belong to this user; not connecting to it")


def connect_running(path: str) -> Client:
    """A connected client. Raises ControllerUnreachable, ProtocolError."""
    connection = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    try:
        check_owner(path)
        connection.settimeout(CONNECT_TIMEOUT_S)
        connection.connect(path)
        link = Link(connection)
        client_id = os.urandom(3).hex()
        link.send(hello_of(client_id))
        answer = link.read_one(CONNECT_TIMEOUT_S).message
    except (OSError, ProtocolError) as error:
        connection.close()
        raise ControllerUnreachable(f"no DeepServe controller answers at {path}: {error}") from None
    if isinstance(answer, Refused):
        raise ProtocolError(f"the controller at {path} refused this connection: {answer.text}")
    if not isinstance(answer, Welcome):
        raise ProtocolError(f"what answers at {path} is no DeepServe controller of this version")
    say(f"using the controller at {path}")
    client = Client(link.send, welcome=answer, client_id=client_id, is_pod=False, leading=link)
    return client_on(link, client, client.deliver, client.on_closed)
