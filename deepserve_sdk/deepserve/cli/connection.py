"""The user's controller, as the commands reach it."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from deepserve import _controller_choice, settings
from deepserve._client import Client
from deepserve._current_client import current_client
from deepserve._running_controller import is_listening, up_socket
from deepserve.errors import ControllerUnreachable


@contextmanager
def connected() -> Iterator[Client]:
    """A client of the controller that DEEPSERVE_URL names, else of this user's `deepserve up`.

    Raises ControllerUnreachable where none runs: a command never starts an embedded one by accident.
    """
    use_running_controller()
    yield current_client()


def use_running_controller() -> None:
    found = settings.current_settings()
    settings.use_settings(found._replace(quiet=True))
    if not found.url:
        if not is_up():
            raise ControllerUnreachable("no controller of this user runs; start one with: deepserve up")
        _controller_choice.init("up")


def is_up() -> bool:
    return is_listening(up_socket())


def query(client: Client, what: str, /, **body: Any) -> dict[str, Any]:
    """Raises NotFound, Refused, ControllerLost."""
    return client.query(what, body)
