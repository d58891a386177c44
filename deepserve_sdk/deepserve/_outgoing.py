"""Outgoing: what this process sends to its controller, until the link ends."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable

from deepserve._ref_holds import RefHolds
from deepserve.errors import DeepServeError
from deepserve.protocol.framing import Buffer
from deepserve.protocol.messages import ForgetRequest, Message


class Outgoing:
    """Thread-safe. `send_frame` writes one frame and may block."""

    def __init__(self, send_frame: Callable[[Message, Buffer], None]) -> None:
        self._send_frame = send_frame
        self._forgotten: deque[str] = deque()
        self.refs = RefHolds(self.send)
        self.closed: DeepServeError | None = None
        """Why nothing can be sent any more."""

    def send(self, message: Message, payload: Buffer = b"") -> None:
        """With what waited for a frame to go with. Raises `closed`."""
        if self.closed is not None:
            raise self.closed
        while self._forgotten:
            try:
                request_id = self._forgotten.popleft()
            except IndexError:  # another thread took the last one
                break
            self._send_frame(ForgetRequest(request_id), b"")
        if self.refs.released and (released := self.refs.take_released()):
            self._send_frame(released, b"")
        self._send_frame(message, payload)

    def forget_later(self, request_id: str) -> None:
        """Safe in a finaliser: the message goes with the next frame."""
        self._forgotten.append(request_id)

    def close(self, error: DeepServeError) -> None:
        """The first error stays."""
        self.closed = self.closed or error
