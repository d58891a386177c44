"""HttpHost: an HTTP server and the asyncio loop that it needs, which hosts the reactor until the controller's end."""

from __future__ import annotations

import asyncio
import socket
import ssl
from collections.abc import Callable
from typing import TYPE_CHECKING

from starlette.types import ASGIApp

from deepserve_controller.service.http_port import HttpServer, make_server
from deepserve_controller.service.openai.exchange import LINK_ID, Exchanges
from deepserve_controller.service.openai.gateway import Gateway
from deepserve_controller.service.openai.models import HostedModels
from deepserve_controller.service.reactor import running_reactor

if TYPE_CHECKING:
    from deepserve_controller.service.bearer import Bearer
    from deepserve_controller.service.controller import Controller


class HttpHost:
    def __init__(self, listener: socket.socket, tls: ssl.SSLContext | None = None) -> None:
        self._listener = listener
        self._tls = tls

    def serve(
        self, controller: Controller, make_app: Callable[[], ASGIApp], on_close: Callable[[], None] = lambda: None
    ) -> None:
        """Until the controller's end. `make_app` is called inside the loop, `on_close` before the port closes."""
        asyncio.run(self._serve(controller, make_app, on_close))

    async def _serve(
        self, controller: Controller, make_app: Callable[[], ASGIApp], on_close: Callable[[], None]
    ) -> None:
        ended = asyncio.Event()
        controller.on_end = ended.set
        reactor = running_reactor()
        reactor.enter(asyncio.get_running_loop())
        try:
            server = make_server(make_app(), self._tls)
            serving = asyncio.ensure_future(server.serve(sockets=[self._listener]))
            if not controller.is_ended:
                await ended.wait()
            on_close()
            for tell in controller.on_ports_close:
                tell()
            await _stop(server, serving)
        finally:
            self._listener.close()
            reactor.leave()


async def _stop(server: HttpServer, serving: asyncio.Task[None]) -> None:
    server.should_exit = True
    await serving


def make_gateway(controller: Controller, bearer: Bearer | None = None) -> Gateway:
    """bearer: the key that may do everything, where there is one."""
    exchanges = Exchanges(controller.requests, controller.segments)
    controller.recipients.add(LINK_ID, exchanges)
    controller.on_ports_close.append(exchanges.end_all)
    models = HostedModels(controller.functions)
    return Gateway(bearer, controller.api_keys, models, exchanges, controller.cores.cores)
