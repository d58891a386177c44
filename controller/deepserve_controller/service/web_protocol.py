"""WebProtocol: uvicorn's WebSockets, for which a refused handshake is a complete one."""

from __future__ import annotations

from typing import Any

from uvicorn.protocols.websockets.websockets_sansio_impl import WebSocketsSansIOProtocol


class WebProtocol(WebSocketsSansIOProtocol):
    """uvicorn logs an error for each handshake that is answered by a denial response, as if nothing had been sent."""

    async def send(self, message: Any) -> None:
        await super().send(message)
        if self.initial_response is not None and self.close_sent:
            self.handshake_complete = True

    def shutdown(self) -> None:
        if self.initial_response is None:
            super().shutdown()
        else:  # no WebSocket came about that could be closed
            self.transport.close()
