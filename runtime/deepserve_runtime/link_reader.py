"""LinkReader: who reads the pod's link: the main thread while it has nothing else to do, else a watching thread."""

from __future__ import annotations

import os
import select
import socket
import threading
import traceback
from collections import deque
from collections.abc import Callable

from deepserve.protocol.framing import FrameError, FrameReader
from deepserve.protocol.messages import Message

READ_BYTES = 64 << 10
TICK_S = 0.1
_ONE_READ = (READ_BYTES,)


class LinkReader:
    """A task that is read by the thread that runs it costs no hand-over between two threads, which takes longer than
    the rest of a warm call in a pod. So the main thread `lead`s; around everything that it runs it hands the link over,
    and a cancel, or another task, is then read by the watching thread. That one sleeps in the kernel until there is
    something: handing over and taking back are one system call each.
    """

    def __init__(
        self,
        connection: socket.socket,
        frames: FrameReader,
        on_frame: Callable[[Message, bytes], object],
        on_end: Callable[[str], None],
        tick: Callable[[], None] | None = None,
    ) -> None:
        """on_end: told once why nothing more comes. tick: called about every TICK_S by the watching thread."""
        self._socket = connection
        self._fd = connection.fileno()
        self._frames = frames
        self._on_frame = on_frame
        self._on_end = on_end
        self._tick = tick
        self._role = threading.Lock()
        """Held by the thread that reads."""
        self._chunks: deque[bytes] = deque()
        self._epoll = select.epoll()
        self._is_handed_over = False
        self._is_over = False

    def start(self) -> None:
        threading.Thread(target=self._watch, name="deepserve-link", daemon=True).start()
        if self._frames.is_mid_frame:
            self._handle_all(b"")  # what came with the welcome

    def lead(self, on_arrival: Callable[[], None]) -> None:
        """Wait for what comes next and handle it here; `on_arrival` is called in between.

        The bytes go from the system call into the queue without a bytecode in between: an exception that a signal's
        handler raises can lose none of them.
        """
        with self._role:
            if not self._chunks:
                try:
                    self._chunks.extend(map(self._socket.recv, _ONE_READ))
                except OSError:
                    self._chunks.append(b"")
            on_arrival()
            self._handle_chunks()

    def hand_over(self) -> None:
        if self._chunks:  # a signal ended the wait just as they came
            with self._role:
                self._handle_chunks()
        self._is_handed_over = True
        self._epoll.register(self._fd, select.EPOLLIN)

    def take_back(self) -> None:
        """Nothing where it was taken back already: a task does so before its outcome is sent, so that the next one is
        read by the thread that will run it."""
        if self._is_handed_over:
            self._is_handed_over = False
            self._epoll.unregister(self._fd)

    def close_copy(self) -> None:
        """In a forked child of the pod."""
        self._epoll.close()

    def _watch(self) -> None:
        timeout_s = TICK_S if self._tick is not None else None
        while not self._is_over:
            self._epoll.poll(timeout_s)
            if self._tick is not None:
                self._tick()
            with self._role:
                if not self._is_handed_over:
                    continue
                try:
                    self._chunks.append(self._socket.recv(READ_BYTES, socket.MSG_DONTWAIT))
                except BlockingIOError:
                    continue
                except OSError:
                    self._chunks.append(b"")
                self._handle_chunks()

    def _handle_chunks(self) -> None:
        chunks = self._chunks
        while chunks and not self._is_over:
            data = chunks[0]
            if data:
                self._handle_all(data)
            else:
                self._end("the controller closed the link")
            chunks.popleft()

    def _handle_all(self, data: bytes) -> None:
        try:
            for message, payload in self._frames.take(data):
                self._on_frame(message, payload)
        except FrameError as error:
            self._end(f"the controller sent a broken frame: {error}")
        except BaseException:
            text = f"the pod's reader failed: {traceback.format_exc()}"
            os.write(2, text.encode())
            self._end(text)

    def _end(self, text: str) -> None:
        self._is_over = True
        self._on_end(text)
