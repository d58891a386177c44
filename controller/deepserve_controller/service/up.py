"""What `deepserve up` has and an embedded controller has not: a place where others find it, and an HTTP port."""

from __future__ import annotations

import contextlib
import errno
import json
import os
import socket
from typing import TYPE_CHECKING, Any

from starlette.types import ASGIApp

from deepserve_controller.errors import InvalidSettings
from deepserve_controller.service.address import check_host, load_tls, url_of
from deepserve_controller.service.bearer import Bearer
from deepserve_controller.service.http_host import HttpHost, make_gateway
from deepserve_controller.service.http_port import HttpApp, listen_http
from deepserve_controller.service.keys import load_key
from deepserve_controller.service.private_files import private
from deepserve_controller.service.state_folder import Claim
from deepserve_controller.service.web_link import LinkEndpoint
from deepserve_controller.settings import Settings

if TYPE_CHECKING:
    from deepserve_controller.service.controller import Controller

SOCKET = "up.sock"
ANNOUNCEMENT = "up.json"


class UpPort:
    """The user's socket, the HTTP port, and the file that says where they are."""

    def __init__(self, runtime: str, settings: Settings) -> None:
        """Raises ControllerError where this user's controller runs already, the port is taken, or it must not be
        opened without TLS."""
        self._tls = load_tls(settings.tls_certificate, settings.tls_key)
        check_host(settings.http_host, has_tls=self._tls is not None)
        self.options = {
            "host": settings.http_host,
            "tls_cert": settings.tls_certificate,
            "tls_key": settings.tls_key,
            "state": settings.state_folder,
        }
        """As it was started, in the command's names; its port stands in `url`."""
        self._hello_timeout_s = settings.hello_timeout_s
        self._claim = Claim(runtime, "a controller of this user runs already (process {pid}, {folder})")
        self.socket_path = os.path.join(runtime, SOCKET)
        self._announcement = os.path.join(runtime, ANNOUNCEMENT)
        self._bearer = Bearer(load_key(settings.state_folder))
        for leftover in (self.socket_path, self._announcement):
            with contextlib.suppress(FileNotFoundError):
                os.unlink(leftover)
        try:
            self._listener: socket.socket = listen_http(settings.http_host, settings.http_port)
        except OSError as error:
            place = f"{settings.http_host}:{settings.http_port}"
            if error.errno == errno.EADDRINUSE:
                text = f"HTTP port {place} is in use by another program: give another --http-port, or 0 for a free one"
                raise InvalidSettings(text) from None
            raise InvalidSettings(f"HTTP port {place} cannot be opened: {error.strerror}") from None
        self.url = url_of(self._listener, has_tls=self._tls is not None)

    def serve(self, controller: Controller) -> None:
        """Until the controller's end, in an asyncio loop, which the HTTP server needs and which hosts the reactor."""
        HttpHost(self._listener, self._tls).serve(controller, lambda: self._open(controller), self._withdraw)

    def _open(self, controller: Controller) -> ASGIApp:
        controller.listen(self.socket_path)
        app = HttpApp(
            self._bearer,
            controller.queries,
            controller.deployments,
            controller.requests,
            controller.recipients,
            controller.segments,
            LinkEndpoint(self._bearer, controller.doorkeeper, controller.segments, self._hello_timeout_s),
            make_gateway(controller, self._bearer).asgi,
        )
        # The port listens already: whoever calls before the server runs waits a moment.
        self._announce({"pid": os.getpid(), "socket": self.socket_path, "url": self.url})
        return app.asgi

    def _withdraw(self) -> None:
        for path in (self._announcement, self.socket_path):
            with contextlib.suppress(FileNotFoundError):
                os.unlink(path)

    def release(self) -> None:
        self._claim.release()

    def _announce(self, found: dict[str, Any]) -> None:
        """Written whole, after everything it names can be reached."""
        unfinished = f"{self._announcement}.{os.getpid()}"
        with open(unfinished, "w", opener=private) as file:
            json.dump(found, file)
        os.replace(unfinished, self._announcement)
