"""WebLink: a client on another host: the frames of a unix socket inside the messages of a WebSocket.

The frames are one stream of bytes; where one WebSocket message ends and the next begins means nothing.
"""

from __future__ import annotations

import asyncio
import contextlib
import sys
import traceback
from collections import deque
from collections.abc import Callable

from starlette.responses import JSONResponse
from starlette.websockets import WebSocket, WebSocketDisconnect

from deepserve.protocol.framing import Buffer, FrameError, FrameReader, encode_prefix
from deepserve.protocol.messages import Hello, Message, Refused
from deepserve_controller.errors import Refusal
from deepserve_controller.service.bearer import HOW_TO_BRING_THE_KEY, Bearer
from deepserve_controller.service.handshake import Doorkeeper
from deepserve_controller.service.links import MAX_UNSENT_BYTES, PAUSE_BYTES, Handler
from deepserve_controller.service.remote_values import RemoteValues
from deepserve_controller.service.segments import Segments

MAX_MESSAGE_BYTES = 4 << 20
"""A peer that sends a larger WebSocket message is cut off. The SDK's have at most a quarter of it."""
SEND_BYTES = 256 << 10
"""So many bytes of frames go into one message, if so many wait."""
GOODBYE_S = 5.0
"""How long a refused peer may take to read why."""


class WebLink:
    """What `Link` is for a socket: the handshake, the frames in, the frames out within a bound."""

    def __init__(self, websocket: WebSocket, doorkeeper: Doorkeeper, segments: Segments) -> None:
        self._websocket = websocket
        self._doorkeeper = doorkeeper
        self._segments = segments
        self._reader = FrameReader()
        self._handler: Handler | None = None
        self._values: RemoteValues | None = None
        self._unsent: deque[memoryview] = deque()
        self._unsent_bytes = 0
        self._has_unsent = asyncio.Event()
        self._is_aborted = asyncio.Event()
        self.is_closed = False
        self.is_paused = False
        self.on_resume: Callable[[], None] | None = None

    async def serve(self, hello_timeout_s: float) -> None:
        """From the accepted handshake of the WebSocket until its end."""
        writing = asyncio.ensure_future(self._write_all())
        aborting = asyncio.ensure_future(self._is_aborted.wait())
        reading = asyncio.ensure_future(self._read_all(hello_timeout_s))
        try:
            await asyncio.wait({reading, writing, aborting}, return_when=asyncio.FIRST_COMPLETED)
            self.is_closed = True
            self._has_unsent.set()
            if reading.done() and not aborting.done():
                await asyncio.wait({writing}, timeout=GOODBYE_S)
        finally:
            for task in (reading, writing, aborting):
                task.cancel()
            await asyncio.gather(reading, writing, aborting, return_exceptions=True)
            self._end()
            with contextlib.suppress(Exception):  # it is closed already
                await self._websocket.close()

    # --- what the rest of the service calls ---

    def send(self, message: Message, payload: Buffer = b"") -> None:
        """Raises FrameError. A closed link takes nothing and says nothing."""
        if self.is_closed:
            return
        if self._values is not None:
            message, payload = self._values.with_content(message, payload)
        prefix = encode_prefix(message, len(payload))
        for part in (prefix, payload):
            if part:
                self._unsent.append(memoryview(part).cast("B"))
        self._unsent_bytes += len(prefix) + len(payload)
        self._has_unsent.set()
        if self._unsent_bytes > PAUSE_BYTES:
            self.is_paused = True
            if self._unsent_bytes > MAX_UNSENT_BYTES:
                self.is_closed = True
                self._is_aborted.set()

    # --- inside ---

    async def _read_all(self, hello_timeout_s: float) -> None:
        try:
            try:
                async with asyncio.timeout(hello_timeout_s):
                    while self._handler is None:
                        if not await self._read():
                            return  # it has left before it said who it is
            except TimeoutError:
                raise Refusal("garbage", "no Hello came in time") from None
            while await self._read():
                pass
        except FrameError as error:
            self.send(Refused(error.code, str(error)))
        except Refusal as refusal:
            self.send(Refused(refusal.code, refusal.text))
        except Exception:
            # A defect in one handler ends its own link; the other links go on.
            traceback.print_exc(file=sys.stderr)

    async def _read(self) -> bool:
        """Takes one message; False at the end."""
        received = await self._websocket.receive()
        if received["type"] != "websocket.receive" or self.is_closed:
            return False
        data = received.get("bytes")
        if data is None:
            raise Refusal("garbage", "a text message; frames are binary")
        for message, payload in self._reader.take(data):
            self._take(message, payload)
        return True

    def _take(self, message: Message, payload: bytes) -> None:
        if self._handler is None or self._values is None:
            if not isinstance(message, Hello):
                raise Refusal("garbage", f"{type(message).__name__} before Hello")
            self._handler = self._doorkeeper.greet_remote(self, message)
            self._values = RemoteValues(self._segments, self)
        elif not self._values.take(message, payload):
            self._handler.frame_received(message, payload)

    async def _write_all(self) -> None:
        while True:
            while self._unsent:
                await self._websocket.send_bytes(self._next_message())
                if self.is_paused and self._unsent_bytes <= PAUSE_BYTES // 4:
                    self.is_paused = False
                    if self.on_resume is not None:
                        self.on_resume()
            if self.is_closed:
                return
            self._has_unsent.clear()
            await self._has_unsent.wait()

    def _next_message(self) -> bytes:
        parts, num_bytes = [], 0
        while self._unsent and num_bytes < SEND_BYTES:
            part = self._unsent.popleft()
            if len(part) > SEND_BYTES - num_bytes:
                self._unsent.appendleft(part[SEND_BYTES - num_bytes :])
                part = part[: SEND_BYTES - num_bytes]
            parts.append(part)
            num_bytes += len(part)
        self._unsent_bytes -= num_bytes
        return b"".join(parts)

    def _end(self) -> None:
        """Its handler hears of it once."""
        self.is_closed = True
        handler, values = self._handler, self._values
        self._handler = self._values = self.on_resume = None
        self._unsent.clear()
        if handler is not None:
            handler.link_closed()
        if values is not None:
            values.close()


class LinkEndpoint:
    """Where clients on other hosts knock. The key is checked before the upgrade, before a byte of theirs is read."""

    def __init__(self, bearer: Bearer, doorkeeper: Doorkeeper, segments: Segments, hello_timeout_s: float) -> None:
        self._bearer = bearer
        self._doorkeeper = doorkeeper
        self._segments = segments
        self._hello_timeout_s = hello_timeout_s

    async def take(self, websocket: WebSocket) -> None:
        if "origin" in websocket.headers:
            return await _deny(websocket, 403, "forbidden", "a page in a browser has no business here")
        if not self._bearer.is_brought_by(websocket):
            return await _deny(websocket, 401, "unauthorized", HOW_TO_BRING_THE_KEY)
        await websocket.accept()
        await WebLink(websocket, self._doorkeeper, self._segments).serve(self._hello_timeout_s)


async def _deny(websocket: WebSocket, status: int, code: str, text: str) -> None:
    headers = {"www-authenticate": "Bearer"} if status == 401 else None
    response = JSONResponse({"error": {"code": code, "text": text}}, status_code=status, headers=headers)
    with contextlib.suppress(WebSocketDisconnect):
        await websocket.send_denial_response(response)
