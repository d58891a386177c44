"""EmbeddedController: a controller that is this process's child, and ends with it."""

from __future__ import annotations

import atexit
import os
import select
import signal
import socket
import sys
import threading
import time

from deepserve import _timeline
from deepserve._client import Client
from deepserve._client_link import client_on, hello_of, say
from deepserve._link import Link
from deepserve.errors import ControllerUnreachable

EXIT_TIMEOUT_S = 5.0
LINK_FD = 3
"""Where the embedded controller finds its end of the socket pair."""


def start_embedded(state: str, environment: str = "") -> Client:
    """A client of a new one. state: the folder of what is to outlive it, or empty. environment: what it starts first.

    Raises ControllerUnreachable.
    """
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_STREAM)
    try:
        pid = _spawn(theirs.fileno(), state, environment)
    except OSError as error:
        ours.close()
        raise ControllerUnreachable(f"the embedded controller could not be started: {error}") from error
    finally:
        theirs.close()
    link = Link(ours)
    client_id = os.urandom(3).hex()
    link.send(hello_of(client_id))
    kept = f"; its state is kept in {state}" if state else ""
    say(f"using an embedded controller, which ends with this process{kept}")
    _timeline.mark("controller process started")
    client = Client(link.send, welcome=None, client_id=client_id, is_pod=False, leading=link)
    child = EmbeddedController(pid, client)

    def on_closed(error: Exception | None = None) -> None:
        client.on_closed(error)
        child.reap()

    return client_on(link, client, client.deliver, on_closed, child)


def _spawn(fd: int, state: str, environment: str) -> int:
    """In a session of its own, so that Ctrl-C reaches the script only. -P: files of the user's folder shadow nothing.

    Its standard output goes to our standard error: what the script prints stays its own.
    """
    arguments = ["-P", "-m", "deepserve_controller", "--embedded", "--client-fd", str(LINK_FD)]
    if state:
        arguments += ["--state", state]
    if environment:
        arguments += ["--environment", environment]
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


class EmbeddedController:
    """The child process. Reaped once: its id may be another process's afterwards."""

    def __init__(self, pid: int, client: Client) -> None:
        self._pid = pid
        self._client = client
        self._lock = threading.Lock()

    def reap(self) -> None:
        """Its link has ended, so it ends, or has ended already."""
        with self._lock:
            if self._pid:
                _wait_for_exit(self._pid, EXIT_TIMEOUT_S)
            self._pid = 0

    def end(self) -> None:
        """Its link was closed by us: wait until it has cleaned up."""
        self.reap()
        _remove(self._folders_left(), os.getpid())

    def clean_up_later(self) -> None:
        """It was lost. What it left goes when this process ends, which may still read values that lie there."""
        if folders := self._folders_left():
            atexit.register(_remove, folders, os.getpid())

    def _folders_left(self) -> list[str]:
        """What a controller that was killed had no time to remove; one that ended well has left none."""
        welcome = self._client.controller.said
        folders = (welcome.folder, welcome.segments) if welcome is not None else ()
        return [folder for folder in folders if os.path.isdir(folder)]


def _remove(folders: list[str], owner_pid: int) -> None:
    """A forked child that ends leaves them alone."""
    if folders and os.getpid() == owner_pid:
        import shutil

        for folder in folders:
            shutil.rmtree(folder, ignore_errors=True)


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
