"""LinkReader: who reads the connection to the controller: a caller that waits for its result, or a watching thread."""

from __future__ import annotations

import os
import select
import socket
import threading
from _thread import get_ident
from collections import deque
from collections.abc import Callable
from contextlib import suppress

from deepserve._frame_link import refusal_of
from deepserve.errors import ControllerLost, DeepServeError, ProtocolError
from deepserve.protocol.framing import Frame, FrameError, FrameReader
from deepserve.protocol.messages import Message, Refused

READ_BYTES = 64 << 10
_ONE_READ, _AT_ONCE = (READ_BYTES,), (socket.MSG_DONTWAIT,)


class LinkReader:
    """A result that is read by the thread that waits for it costs no hand-over between two threads, which takes longer
    than the rest of a warm call here. So who waits may `lead`; all that is not its own result, and all that comes
    while nobody leads, is handled by the watching thread, which no signal interrupts. That one sleeps in the kernel.
    """

    def __init__(self, connection: socket.socket, frames: FrameReader) -> None:
        self._socket = connection
        self._fd = connection.fileno()
        self._frames = frames
        self._role = threading.RLock()
        """Held by the thread that reads."""
        self._is_unwatched = False
        self._chunks: deque[bytes] = deque()
        """Read and not handled yet."""
        self._epoll = select.epoll()
        self._kick = os.eventfd(0, os.EFD_CLOEXEC | os.EFD_NONBLOCK)
        self._recall = os.eventfd(0, os.EFD_CLOEXEC | os.EFD_NONBLOCK)
        self._wait = select.poll()
        self._wait.register(self._fd, select.POLLIN)
        self._wait.register(self._recall, select.POLLIN)
        self._waiting_thread = 0
        """The leader, while it waits: a signal's handler may run in it then, and make calls of its own."""
        self._is_over = False

    def start(self, on_frame: Callable[[Message, bytes], object], on_over: Callable[[DeepServeError], None]) -> None:
        if rest := self._frames.take_rest():  # what came with the welcome
            self._chunks.append(rest)
            os.eventfd_write(self._kick, 1)
        self._epoll.register(self._kick, select.EPOLLIN)
        self._epoll.register(self._fd, select.EPOLLIN)

        def watch() -> None:
            error = self._watch(on_frame)
            with self._role:
                self._is_over = True
                self._close()
            on_over(error)

        threading.Thread(target=watch, name="deepserve-link", daemon=True).start()

    def begin_leading(self) -> None:
        """Before a request is sent whose result the caller will wait for: the watching thread must not be quicker.
        Nothing where another thread leads, or there is something left for the watching thread.

        A KeyboardInterrupt may come between any two bytecodes. What it skips here, `stop_leading` makes up for.
        """
        role = self._role
        if self._waiting_thread == get_ident():
            return self.step_aside()
        if role._is_owned():  # type: ignore[attr-defined]
            self.stop_leading()
        if role.acquire(blocking=False):
            if self._is_over or self._chunks or self._frames.is_mid_frame:
                role.release()
                return
            self._is_unwatched = True
            self._epoll.unregister(self._fd)

    def lead(self, is_awaited: Callable[[Frame], bool]) -> bool:
        """Read on the caller's thread until a frame comes that `is_awaited` takes; False where another thread reads, or
        something else came, which the watching thread then handles.

        The bytes go from the system call into the queue without a bytecode in between: a KeyboardInterrupt loses none.
        """
        try:
            if not self._role._is_owned():  # type: ignore[attr-defined]
                self.begin_leading()
                if not self._role._is_owned():  # type: ignore[attr-defined]
                    return False
            self._waiting_thread = get_ident()
            ready = self._wait.poll()
            self._waiting_thread = 0
            if len(ready) > 1 or ready[0][0] != self._fd:  # recalled, just now or in a wait that Ctrl-C ended
                os.eventfd_read(self._recall)
                return False
            self._chunks.extend(map(self._socket.recv, _ONE_READ, _AT_ONCE))
            frame = self._frames.whole_frame(self._chunks[0])
            if frame is not None and is_awaited(frame):
                self._chunks.clear()
                return True
            return False
        except (OSError, FrameError):
            return False  # the watching thread meets it too, and tells everybody
        finally:
            if self._waiting_thread == get_ident():
                self._waiting_thread = 0
            self.stop_leading()

    def step_aside(self) -> None:
        """Before this thread waits for something else: where it leads already (a signal's handler interrupted it and
        makes a call), the watching thread takes over, and the interrupted wait ends too."""
        if self._waiting_thread == get_ident() and self._role._is_owned():  # type: ignore[attr-defined]
            self.stop_leading()
            os.eventfd_write(self._recall, 1)

    def stop_leading(self) -> None:
        """Leave the link to the watching thread, where this one has not yet; may be called at any time."""
        role = self._role
        if not role._is_owned():  # type: ignore[attr-defined]
            return
        if self._is_unwatched and not self._is_over:
            with suppress(FileExistsError):
                self._epoll.register(self._fd, select.EPOLLIN)
            self._is_unwatched = False
        if self._chunks and not self._is_over:
            os.eventfd_write(self._kick, 1)
        while role._is_owned():  # type: ignore[attr-defined]
            role.release()

    def close_copy(self) -> None:
        """In a forked child: drop what was inherited, without disturbing the parent's."""
        self._close()

    def _close(self) -> None:
        self._epoll.close()
        if self._kick >= 0:
            os.close(self._kick)
            os.close(self._recall)
            self._kick = -1

    def _watch(self, on_frame: Callable[[Message, bytes], object]) -> DeepServeError:
        try:
            while True:
                ready = self._epoll.poll()
                with self._role:
                    self._read(ready)
                    while self._chunks:
                        data = self._chunks[0]
                        if not data:
                            return ControllerLost("the controller ended")
                        frames = self._frames.take(data)
                        self._chunks.popleft()
                        for message, payload in frames:
                            if isinstance(message, Refused):
                                return refusal_of(message)
                            on_frame(message, payload)
        except FrameError as error:
            return ProtocolError(f"the controller sent what is no frame: {error}")
        except OSError as error:
            return ControllerLost(f"the connection to the controller broke: {error}")
        except Exception as error:  # a fault of ours: those who wait must hear of it
            return ControllerLost(f"what came from the controller was not understood: {error!r}")

    def _read(self, ready: list[tuple[int, int]]) -> None:
        for fd, _ in ready:
            if fd == self._kick:
                os.eventfd_read(fd)
            elif not self._chunks:
                try:
                    self._chunks.append(self._socket.recv(READ_BYTES, socket.MSG_DONTWAIT))
                except BlockingIOError:  # a leader was quicker
                    pass
