"""Which controller this process's calls go to: the one that the user names, one that runs, or one of its own."""

from __future__ import annotations

import os
import sys
from typing import NamedTuple

from deepserve import _context, _timeline, settings
from deepserve._client import Client
from deepserve._running_controller import connect_running, is_listening, up_socket
from deepserve.errors import ControllerUnreachable, InvalidOption

MODEL_ENVIRONMENT = "flowserve"


class Choice(NamedTuple):
    """kind: embedded, up, url, distant. path: the socket, empty for embedded; of a distant one its URL."""

    kind: str
    path: str = ""


_engine = ""
_key = ""
_state = ""


def init(engine: str | None = None, *, key: str | None = None, state: str | os.PathLike[str] | None = None) -> None:
    """Choose the controller before the first remote call. In a pod, which has its controller, it does nothing: a file
    that pods import may have it at its top level.

    engine: "embedded", "up", "unix:///path" or "https://host:port"; None for the usual order (DEEPSERVE_URL, a running
    `deepserve up`, embedded). key: for https, None for DEEPSERVE_KEY. state: the folder in which an embedded controller
    keeps what is to outlive it, made where it is missing; the engine is an embedded one then. None for DEEPSERVE_STATE,
    which other engines ignore; without either, nothing is kept. One controller holds it at a time: another one's calls
    raise StateFolderInUse. Raises InvalidOption for anything else, or after the first remote call. (Ray:
    `ray.init(address=)`.)
    """
    from deepserve._current_client import installed_client

    global _engine, _key, _state
    client = installed_client()
    if _context.importing or (client is not None and client.is_pod):
        return
    if client is not None:
        options = {"engine": engine, "key": key, "state": state}
        given = ", ".join(f"{name}=..." for name, value in options.items() if value is not None)
        raise InvalidOption(f"init({given}): a controller is in use already; call init before the first remote call")
    _parse_engine(engine or "")
    folder = settings.state_path("init: state", state) if state is not None else ""
    if state is not None and not folder:
        raise InvalidOption(f"init: state={state!r} names no folder")
    if folder and engine not in (None, "", "embedded"):
        raise InvalidOption(f"init: state={state!r}: only an embedded controller takes a folder, not engine={engine!r}")
    _engine, _key, _state = engine or ("embedded" if folder else ""), key or "", folder


def connect(environment: str = "") -> Client:
    """A connected client. environment: what the coming call needs; a controller that is started begins with it.

    Raises ControllerUnreachable, InvalidOption, ProtocolError, MissingPackage.
    """
    if sys.platform != "linux":
        raise ControllerUnreachable(f"remote calls need Linux (this is {sys.platform}); local calls work everywhere")
    _timeline.mark("the script up to its first call")
    choice = _choose()
    if choice.kind == "embedded":
        if environment == MODEL_ENVIRONMENT:
            from deepserve._engine_packages import require_engine

            require_engine()
        from deepserve._embedded_controller import start_embedded

        return start_embedded(_state or settings.current_settings().state, environment)
    if choice.kind == "distant":
        from deepserve._distant_controller import connect_distant

        return connect_distant(choice.path, _key or settings.current_settings().key)
    return connect_running(choice.path)


def _choose() -> Choice:
    if _engine:
        return _parse_engine(_engine)
    if url := settings.current_settings().url:
        return _parse_engine(url)
    up = up_socket()
    return Choice("up", up) if is_listening(up) else Choice("embedded")


def _parse_engine(engine: str) -> Choice:
    if engine in ("", "embedded"):
        return Choice("embedded")
    if engine == "up":
        return Choice("up", up_socket())
    scheme, separator, path = engine.partition("://")
    if scheme == "unix" and path.startswith("/"):
        return Choice("url", path)
    if scheme in ("https", "http"):
        from deepserve._distant_address import parse_url

        return Choice("distant", parse_url(engine).url)
    named = f"{scheme}://" if separator else repr(engine)
    raise InvalidOption(
        f"{named} is no controller that this version reaches: use https://host:port, unix:///path, 'up' or 'embedded'"
    )
