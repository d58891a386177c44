"""What the machine allows between two Python processes: the same works without any system around them."""

import asyncio
import mmap
import os
import pickle
import signal
import socket
import struct
from collections.abc import Callable, Iterator, Sequence
from typing import Any

from harness import VALUE_BYTES, Verbs, has_numpy, make_array, make_bytes, read_array, read_bytes, report

CORES = sorted(os.sched_getaffinity(0))
HEAD = struct.Struct("<IQ")
FRAMES_PER_SEND = 64
_children: list[int] = []


def forked(serve: Callable[[socket.socket], None], core: int | None = None) -> socket.socket:
    """A socket to a child that runs `serve` on its end, until this end is closed."""
    here, there = socket.socketpair()
    pid = os.fork()
    if pid == 0:
        here.close()
        if core is not None:
            os.sched_setaffinity(0, {core})
        try:
            serve(there)
        except (EOFError, OSError):
            pass
        finally:
            os._exit(0)
    there.close()
    _children.append(pid)
    return here


def frame(number: int, value: int) -> bytes:
    """A head and a pickled value, as any such system sends."""
    body = pickle.dumps(value)
    return HEAD.pack(len(body), number) + body


def frames(connection: socket.socket) -> Iterator[list[tuple[int, Any]]]:
    """What every receive brings, decoded."""
    buffer = b""
    while data := connection.recv(1 << 18):
        buffer += data
        found, at = [], 0
        while len(buffer) - at >= HEAD.size:
            size, number = HEAD.unpack_from(buffer, at)
            if len(buffer) - at < HEAD.size + size:
                break
            at += HEAD.size
            found.append((number, pickle.loads(buffer[at : at + size])))
            at += size
        buffer = buffer[at:]
        if found:
            yield found


def answer(connection: socket.socket) -> None:
    """Everything that one receive brought with one send."""
    for found in frames(connection):
        connection.sendall(b"".join(frame(number, value) for number, value in found))


def caller(connection: socket.socket) -> Callable[[int], int]:
    arriving = frames(connection)

    def call(i: int) -> int:
        connection.sendall(frame(i, i))
        value: int = next(arriving)[0][1]
        return value

    return call


def pinned(call: Callable[[int], int]) -> Callable[[int], int]:
    """On the first core, as long as it is measured."""

    def on_first_core(i: int) -> int:
        os.sched_setaffinity(0, {CORES[0]})
        return call(i)

    return on_first_core


def relay(connection: socket.socket) -> None:
    """Bytes pass through, as through a controller that looks at nothing."""
    behind = forked(answer)
    import select

    while True:
        for readable in select.select([connection, behind], [], [])[0]:
            data = readable.recv(1 << 16)
            if not data:
                return
            (behind if readable is connection else connection).sendall(data)


def asyncio_answer(connection: socket.socket) -> None:
    async def serve() -> None:
        reader, writer = await asyncio.open_connection(sock=connection)
        while True:
            size, number = HEAD.unpack(await reader.readexactly(HEAD.size))
            writer.write(frame(number, pickle.loads(await reader.readexactly(size))))

    asyncio.run(serve())


class AsyncioCaller:
    """A coroutine that calls, so that no thread hands anything over: the loop runs for as long as the work."""

    def __init__(self) -> None:
        self._loop = asyncio.new_event_loop()
        self._reader, self._writer = self._loop.run_until_complete(asyncio.open_connection(sock=forked(asyncio_answer)))

    async def _call(self, i: int) -> int:
        self._writer.write(frame(i, i))
        size, _ = HEAD.unpack(await self._reader.readexactly(HEAD.size))
        value: int = pickle.loads(await self._reader.readexactly(size))
        return value

    def __call__(self, i: int) -> int:
        return self._loop.run_until_complete(self._call(i))


def in_frames(num_per_send: int) -> Callable[[Sequence[int]], Sequence[int]]:
    """Two workers, each given `num_per_send` frames at a time, several such bundles under way."""
    workers = [forked(answer) for _ in range(2)]
    arriving = [frames(worker) for worker in workers]

    def map_(inputs: Sequence[int]) -> Sequence[int]:
        outputs: list[int] = [0] * len(inputs)
        bundles = [range(at, min(at + num_per_send, len(inputs))) for at in range(0, len(inputs), num_per_send)]
        waiting = [0, 0]
        for turn, bundle in enumerate(bundles):
            which = turn % 2
            while waiting[which] > 4 * num_per_send:
                waiting[which] -= take(which, outputs)
            workers[which].sendall(b"".join(frame(n, inputs[n]) for n in bundle))
            waiting[which] += len(bundle)
        for which in (0, 1):
            while waiting[which]:
                waiting[which] -= take(which, outputs)
        return outputs

    def take(which: int, outputs: list[int]) -> int:
        found = next(arriving[which])
        for number, value in found:
            outputs[number] = value
        return len(found)

    return map_


def received(connection: socket.socket, size: int) -> bytearray:
    data = bytearray(size)
    view, at = memoryview(data), 0
    while at < size:
        num_read = connection.recv_into(view[at:])
        if not num_read:
            raise EOFError
        at += num_read
    return data


def value_server(connection: socket.socket) -> None:
    """`t` and a value: its size. `a` or `b` and a number: an array or bytes."""
    while order := connection.recv(1):
        number = struct.unpack("<Q", received(connection, 8))[0]
        if order == b"t":
            connection.sendall(struct.pack("<Q", read_bytes(received(connection, number))))
        else:
            connection.sendall(memoryview(make_array(number) if order == b"a" else make_bytes(number)).cast("B"))


def over_socket() -> Verbs:
    connection = forked(value_server)
    connection.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 1 << 22)

    def take(value: Any) -> int:
        view = memoryview(value).cast("B")
        connection.sendall(b"t" + struct.pack("<Q", len(view)))
        connection.sendall(view)
        size: int = struct.unpack("<Q", received(connection, 8))[0]
        return size

    def give(order: bytes, i: int) -> Any:
        connection.sendall(order + struct.pack("<Q", i))
        return received(connection, VALUE_BYTES)

    def give_array(i: int) -> Any:
        import numpy

        return numpy.frombuffer(give(b"a", i))

    return Verbs(
        "limit: socket",
        take_array=take,
        give_array=give_array,
        take_bytes=take,
        give_bytes=lambda i: give(b"b", i),
    )


def over_arena() -> Verbs:
    """One copy into shared memory that has its pages already, and a byte over a socket to say so."""
    import numpy

    arena = mmap.mmap(-1, 2 * VALUE_BYTES)
    arena[:] = bytes(len(arena))
    there, back = (numpy.frombuffer(arena, count=VALUE_BYTES // 8, offset=at) for at in (0, VALUE_BYTES))
    view = memoryview(arena)

    def serve(connection: socket.socket) -> None:
        while order := connection.recv(1):
            if order == b"t":
                read_array(there)
            elif order == b"r":
                read_bytes(bytes(view[:VALUE_BYTES]))  # bytes are their holder's own: this copy cannot be spared
            elif order == b"a":
                back[:] = make_array(1)
            else:
                view[VALUE_BYTES:] = make_bytes(1)
            connection.sendall(b".")

    connection = forked(serve)

    def ask(order: bytes) -> None:
        connection.sendall(order)
        connection.recv(1)

    def take_array(array: Any) -> int:
        there[:] = array
        ask(b"t")
        return int(array.nbytes)

    def take_bytes(data: bytes) -> int:
        view[:VALUE_BYTES] = data
        ask(b"r")
        return len(data)

    def give_array(i: int) -> Any:
        ask(b"a")
        return back

    def give_bytes(i: int) -> bytes:
        ask(b"b")
        return bytes(view[VALUE_BYTES:])

    return Verbs(
        "limit: shared arena",
        take_array=take_array,
        give_array=give_array,
        take_bytes=take_bytes,
        give_bytes=give_bytes,
    )


if __name__ == "__main__":
    try:
        ways = [
            Verbs("limit: socket ping-pong, any core", call=caller(forked(answer))),
            Verbs("limit: socket, relayed by a third process", call=caller(forked(relay))),
            Verbs("limit: socket, asyncio at both ends", call=AsyncioCaller()),
            Verbs("limit: a frame per send, 2 workers", map=in_frames(1)),
            Verbs(f"limit: {FRAMES_PER_SEND} frames per send, 2 workers", map=in_frames(FRAMES_PER_SEND)),
            over_socket(),
            *([over_arena()] if has_numpy() else []),
            # Last: they leave this process on one core.
            Verbs("limit: socket ping-pong, one core", call=pinned(caller(forked(answer, CORES[0])))),
            Verbs("limit: socket ping-pong, two cores", call=pinned(caller(forked(answer, CORES[-1])))),
        ]
        report(*ways)
    finally:
        for child in _children:
            os.kill(child, signal.SIGKILL)
            os.waitpid(child, 0)
