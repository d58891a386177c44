"""LoopbackPort: the OpenAI API of an embedded controller, for this machine only, opened when it is asked for."""

from __future__ import annotations

import socket
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from deepserve_controller.service.controller import Controller


class LoopbackPort:
    """Listens at once, so that its address can be told; connections wait until `serve`."""

    def __init__(self) -> None:
        """Raises OSError."""
        self._listener = socket.socket(socket.AF_INET, socket.SOCK_STREAM)
        try:
            self._listener.bind(("127.0.0.1", 0))
            self._listener.listen(128)
        except BaseException:
            self._listener.close()
            raise
        self._listener.setblocking(False)
        self.url = f"http://127.0.0.1:{self._listener.getsockname()[1]}"

    def serve(self, controller: Controller) -> None:
        """Until the controller's end."""
        # Imported where needed: most embedded controllers never serve HTTP.
        from starlette.applications import Starlette
        from starlette.routing import Mount

        from deepserve_controller.service.http_host import HttpHost, make_gateway

        HttpHost(self._listener).serve(
            controller, lambda: Starlette(routes=[Mount("/v1", app=make_gateway(controller).asgi)])
        )
