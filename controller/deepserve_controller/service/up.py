"""What `deepserve up` has and an embedded controller has not: a place where others find it, and an HTTP port."""

from __future__ import annotations

import asyncio
import contextlib
import fcntl
import json
import os
import socket
from typing import TYPE_CHECKING, Any

from deepserve_controller.errors import AlreadyRunning, ControllerError
from deepserve_controller.service.folders import make_private
from deepserve_controller.service.keys import load_key

if TYPE_CHECKING:
    from deepserve_controller.service.controller import Controller
    from deepserve_controller.service.http_port import HttpServer

SOCKET = "up.sock"
ANNOUNCEMENT = "up.json"


class Claim:
    """A folder that one controller holds at a time; the system lets go when its process ends, however it ends."""

    def __init__(self, folder: str, text: str) -> None:
        """Raises AlreadyRunning with `text`, UnsafeFolder."""
        make_private(folder)
        self._fd = os.open(os.path.join(folder, "lock"), os.O_CREAT | os.O_RDWR | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)
        try:
            fcntl.flock(self._fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            holder = os.read(self._fd, 20).decode(errors="replace").strip()
            os.close(self._fd)
            raise AlreadyRunning(text.format(folder=folder, pid=holder or "unknown")) from None
        os.truncate(self._fd, 0)
        os.write(self._fd, str(os.getpid()).encode())

    def release(self) -> None:
        os.close(self._fd)


class UpPort:
    """The user's socket, the HTTP port, and the file that says where they are."""

    def __init__(self, runtime: str, state_folder: str, http_port: int) -> None:
        """Raises ControllerError where this user's controller runs already or the port is taken."""
        from deepserve_controller.service.http_port import listen_http

        self._claim = Claim(runtime, "a controller of this user runs already (process {pid}, {folder})")
        self.socket_path = os.path.join(runtime, SOCKET)
        self._announcement = os.path.join(runtime, ANNOUNCEMENT)
        self._key = load_key(state_folder)
        for leftover in (self.socket_path, self._announcement):
            with contextlib.suppress(FileNotFoundError):
                os.unlink(leftover)
        try:
            self._listener: socket.socket = listen_http(http_port)
        except OSError as error:
            raise ControllerError(f"HTTP port {http_port} cannot be opened: {error.strerror}") from None
        self.url = "http://{}:{}".format(*self._listener.getsockname()[:2])
        self._server: HttpServer | None = None
        self._serving: asyncio.Task[None] | None = None

    async def open(self, controller: Controller) -> None:
        from deepserve_controller.service.http_port import HttpApp, make_server

        await controller.listen(self.socket_path)
        app = HttpApp(
            self._key,
            controller.queries,
            controller.deployments,
            controller.requests,
            controller.recipients,
            controller.segments,
        )
        self._server = make_server(app)
        self._serving = asyncio.ensure_future(self._server.serve(sockets=[self._listener]))
        self._announce({"pid": os.getpid(), "socket": self.socket_path, "url": self.url})

    async def close(self) -> None:
        for path in (self._announcement, self.socket_path):
            with contextlib.suppress(FileNotFoundError):
                os.unlink(path)
        if self._server is not None and self._serving is not None:
            self._server.should_exit = True
            await self._serving
        self._listener.close()

    def release(self) -> None:
        self._claim.release()

    def _announce(self, found: dict[str, Any]) -> None:
        """Written whole, after everything it names can be reached."""
        unfinished = f"{self._announcement}.{os.getpid()}"
        with open(os.open(unfinished, os.O_CREAT | os.O_WRONLY | os.O_TRUNC | os.O_CLOEXEC, 0o600), "w") as file:
            json.dump(found, file)
        os.replace(unfinished, self._announcement)
