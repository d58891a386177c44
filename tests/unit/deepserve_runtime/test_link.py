from __future__ import annotations

import socket
import threading

import pytest

from deepserve.protocol.framing import Buffer, FrameReader
from deepserve.protocol.messages import StopPod, TaskOutputs, Value
from deepserve_runtime.link import SMALL_PAYLOAD_BYTES, Link

MESSAGE = TaskOutputs("t-1", 1, 0, (Value(),))


class Recorder:
    """A socket that keeps what each call wrote."""

    def __init__(self) -> None:
        self.writes: list[bytes] = []

    def sendall(self, data: Buffer) -> None:
        self.writes.append(bytes(data))


@pytest.mark.parametrize("size", [0, SMALL_PAYLOAD_BYTES, SMALL_PAYLOAD_BYTES + 1])
def test_a_frame_of_another_thread_is_one_write(size: int) -> None:
    """An exception thrown into the thread between two writes would leave half a frame on the link."""
    recorder = Recorder()
    link = Link(recorder)  # type: ignore[arg-type]
    thread = threading.Thread(target=link.send, args=(MESSAGE, bytes(size)))
    thread.start()
    thread.join()
    [written] = recorder.writes
    reader = FrameReader()
    reader.feed(written)
    [(message, payload)] = reader.frames()
    assert message == MESSAGE and payload == bytes(size)


def test_a_large_payload_of_the_main_thread_is_not_copied() -> None:
    recorder = Recorder()
    Link(recorder).send(MESSAGE, bytes(SMALL_PAYLOAD_BYTES + 1))  # type: ignore[arg-type]
    assert [len(write) > SMALL_PAYLOAD_BYTES for write in recorder.writes] == [False, True]


def test_a_frame_sent_by_a_finaliser_inside_a_write_follows_that_write() -> None:
    ours, theirs = socket.socketpair()
    link = Link(ours)

    class Sock:
        """Sends like the socket, and once in between like a finaliser that the garbage collector runs."""

        def sendall(self, data: bytes) -> None:
            if not sent:
                sent.append(True)
                link.send(StopPod("second"))
            ours.sendall(data)

    sent: list[bool] = []
    link._socket = Sock()  # type: ignore[assignment]
    link.send(StopPod("first"))
    reader = FrameReader()
    reader.feed(theirs.recv(1 << 16))
    assert [frame.message for frame in reader.frames()] == [StopPod("first"), StopPod("second")]
    ours.close()
    theirs.close()


def test_a_finaliser_that_runs_as_a_write_begins_does_not_wait_for_it() -> None:
    recorder = Recorder()
    link = Link(recorder)  # type: ignore[arg-type]
    with link._send_lock:
        link.send(StopPod("second"))
    assert not recorder.writes
    link.send(StopPod("first"))
    reader = FrameReader()
    reader.feed(b"".join(recorder.writes))
    assert [frame.message for frame in reader.frames()] == [StopPod("first"), StopPod("second")]
