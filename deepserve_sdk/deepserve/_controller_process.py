"""Finds the controller that this process's calls go to, or starts one that ends with it."""

from __future__ import annotations

import atexit
import os
import select
import signal
import socket
import stat
import sys
import threading
import time
from collections.abc import Callable
from typing import TYPE_CHECKING, NamedTuple
from weakref import WeakSet

from deepserve import _context, _timeline, settings
from deepserve._client import Client
from deepserve._link import Link
from deepserve._pickling import PYTHON
from deepserve.errors import ControllerUnreachable, DeepServeError, InvalidOption, ProtocolError
from deepserve.protocol import PROTOCOL_VERSION
from deepserve.protocol.messages import Hello, Message, Refused, Welcome

if TYPE_CHECKING:
    from deepserve._websocket_link import WebSocketLink

CONNECT_TIMEOUT_S = 3.0
EXIT_TIMEOUT_S = 5.0
LINK_FD = 3
"""Where the embedded controller finds its end of the socket pair."""


class Choice(NamedTuple):
    """kind: embedded, up, url, distant. path: the socket, empty for embedded; of a distant one its URL."""

    kind: str
    path: str = ""


_engine = ""
_key = ""
_state = ""
_links: WeakSet[Link | WebSocketLink] = WeakSet()
"""Of this process, as long as they live: a forked child drops its copies."""


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


def connect() -> Client:
    """A connected client. Raises ControllerUnreachable, InvalidOption, ProtocolError."""
    if sys.platform != "linux":
        raise ControllerUnreachable(f"remote calls need Linux (this is {sys.platform}); local calls work everywhere")
    _timeline.mark("the script up to its first call")
    choice = _choose()
    if choice.kind == "embedded":
        return _start_embedded()
    if choice.kind == "distant":
        from deepserve._distant_controller import connect_distant

        return connect_distant(choice.path, _key or settings.current_settings().key)
    return _connect_socket(choice)


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


# --- a running controller ---------------------------------------------------------------------------


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


def _connect_socket(choice: Choice) -> Client:
    connection = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    try:
        check_owner(choice.path)
        connection.settimeout(CONNECT_TIMEOUT_S)
        connection.connect(choice.path)
        link = Link(connection)
        client_id = os.urandom(3).hex()
        link.send(hello_of(client_id))
        answer = link.read_one(CONNECT_TIMEOUT_S).message
    except (OSError, ProtocolError) as error:
        connection.close()
        raise ControllerUnreachable(f"no DeepServe controller answers at {choice.path}: {error}") from None
    if isinstance(answer, Refused):
        raise ProtocolError(f"the controller at {choice.path} refused this connection: {answer.text}")
    if not isinstance(answer, Welcome):
        raise ProtocolError(f"what answers at {choice.path} is no DeepServe controller of this version")
    say(f"using the controller at {choice.path}")
    return _client_over(link, answer, client_id, controller_pid=0)


# --- the embedded controller ------------------------------------------------------------------------


def _start_embedded() -> Client:
    state = _state or settings.current_settings().state
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_STREAM)
    try:
        pid = _spawn_controller(theirs.fileno(), state)
    except OSError as error:
        ours.close()
        raise ControllerUnreachable(f"the embedded controller could not be started: {error}") from error
    finally:
        theirs.close()
    link = Link(ours)
    client_id = os.urandom(3).hex()
    link.send(hello_of(client_id))
    say(
        "using an embedded controller, which ends with this process" + (f"; its state is kept in {state}" * bool(state))
    )
    _timeline.mark("controller process started")
    return _client_over(link, None, client_id, controller_pid=pid)


def _spawn_controller(fd: int, state: str) -> int:
    """In a session of its own, so that Ctrl-C reaches the script only. -P: files of the user's folder shadow nothing.

    Its standard output goes to our standard error: what the script prints stays its own.
    """
    arguments = ["-P", "-m", "deepserve_controller", "--embedded", "--client-fd", str(LINK_FD)]
    if state:
        arguments += ["--state", state]
    return os.posix_spawn(
        sys.executable,
        [sys.executable, *arguments],
        # Room for a pod's id in the memory that pods inherit by fork (see the controller's template_process). The state
        # folder is this controller's alone: scripts that pods start have controllers of their own.
        {**os.environ, "DEEPSERVE_POD_ID": "-" * 64, "DEEPSERVE_STATE": ""},
        setsid=True,
        setsigmask=(),
        setsigdef=(signal.SIGINT, signal.SIGPIPE),
        file_actions=[
            (os.POSIX_SPAWN_DUP2, fd, LINK_FD),
            (os.POSIX_SPAWN_OPEN, 0, os.devnull, os.O_RDONLY, 0),
            *([] if _is_open(2) else [(os.POSIX_SPAWN_OPEN, 2, os.devnull, os.O_WRONLY, 0)]),
            (os.POSIX_SPAWN_DUP2, 2, 1),
        ],
    )


def _is_open(fd: int) -> bool:
    try:
        os.fstat(fd)
    except OSError:
        return False
    return True


def hello_of(client_id: str) -> Hello:
    return Hello(PROTOCOL_VERSION, "client", client_id, "", PYTHON, os.getpid())


def _client_over(link: Link, welcome: Welcome | None, client_id: str, controller_pid: int) -> Client:
    client = Client(link.send, welcome=welcome, client_id=client_id, is_pod=False, leading=link)
    child = _EmbeddedController(controller_pid) if controller_pid else None

    def on_closed(error: Exception | None = None) -> None:
        client.on_closed(error)
        if child is not None:
            child.reap()

    return client_on(link, client, client.deliver, on_closed, child)


def client_on(
    link: Link | WebSocketLink,
    client: Client,
    on_frame: Callable[[Message, bytes], object],
    on_closed: Callable[[DeepServeError], None],
    child: _EmbeddedController | None = None,
) -> Client:
    """From here on the link is read, and at the end of this process it is closed, unless it has ended by then."""
    owner_pid = os.getpid()
    is_leaving = False

    def leave() -> None:
        nonlocal is_leaving
        is_leaving = True
        if os.getpid() == owner_pid:
            _leave(client, link, child)

    def end(error: DeepServeError) -> None:
        on_closed(error)
        if not is_leaving:
            atexit.unregister(leave)  # it would keep all that the client had, for each controller that was lost
            if child is not None and (folders := _folders_left(client)):
                atexit.register(_remove_left, folders, owner_pid)

    client.leave = leave
    atexit.register(leave)
    _links.add(link)
    link.start_reader(on_frame, end)
    return client


class _EmbeddedController:
    """The child process. Reaped once: its id may be another process's afterwards."""

    def __init__(self, pid: int) -> None:
        self._pid = pid
        self._lock = threading.Lock()

    def reap(self) -> None:
        """Its link has ended, so it ends, or has ended already."""
        with self._lock:
            if self._pid:
                _wait_for_exit(self._pid, EXIT_TIMEOUT_S)
            self._pid = 0


def _folders_left(client: Client) -> list[str]:
    """What a controller that was killed had no time to remove; one that ended well has left none."""
    welcome = client.welcome_or_none
    folders = (welcome.folder, welcome.segments) if welcome is not None else ()
    return [folder for folder in folders if os.path.isdir(folder)]


def _remove_left(folders: list[str], owner_pid: int) -> None:
    """Not before the process that the controller belonged to ends: it may still read values that lie there."""
    if folders and os.getpid() == owner_pid:
        import shutil

        for folder in folders:
            shutil.rmtree(folder, ignore_errors=True)


def disconnect() -> None:
    """End this process's link, and an embedded controller with all that it started; the next call connects anew."""
    from deepserve._current_client import install, installed_client

    client = installed_client()
    if client is not None and not client.is_pod:
        install(None)
        atexit.unregister(client.leave)
        client.leave()


def _leave(client: Client, link: Link | WebSocketLink, child: _EmbeddedController | None) -> None:
    """Close the link, which is an embedded controller's lifeline, and wait until it has cleaned up."""
    pending = client.pending_calls
    if pending and client.is_embedded and client.closed is None:
        calls = "call was" if pending == 1 else "calls were"
        say(f"{pending} {calls} still pending at the end of the script and {'is' if pending == 1 else 'are'} cancelled")
    link.close()
    if child is not None:
        child.reap()
        _remove_left(_folders_left(client), os.getpid())


def _wait_for_exit(pid: int, timeout_s: float) -> None:
    """Reap the child; kill it after `timeout_s`."""
    try:
        pidfd = os.pidfd_open(pid)
    except OSError:  # reaped already
        return
    try:
        ends_at_s = time.monotonic() + timeout_s
        poller = select.poll()
        poller.register(pidfd, select.POLLIN)
        if not poller.poll(max(0.0, ends_at_s - time.monotonic()) * 1e3):
            signal.pidfd_send_signal(pidfd, signal.SIGKILL)
            poller.poll(1000)
        os.waitpid(pid, 0)
    except ChildProcessError:  # the script reaps its children itself
        pass
    finally:
        os.close(pidfd)


def say(text: str) -> None:
    if not settings.current_settings().quiet and sys.stderr is not None:
        print(f"deepserve: {text}", file=sys.stderr)


def _abandon_links() -> None:
    for link in list(_links):
        link.abandon()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_abandon_links)
