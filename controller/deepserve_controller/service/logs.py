"""What user code prints: kept by function for a while, and shown on the terminals it concerns."""

from __future__ import annotations

import contextlib
import os
from collections import deque
from collections.abc import Callable, Iterable
from typing import Literal

from deepserve.protocol.messages import LogOutput
from deepserve_controller.service.log_files import LogFiles
from deepserve_controller.service.reactor import Timer, running_reactor
from deepserve_controller.service.recipients import Connection

RING_BYTES = 1 << 20
NUM_RINGS = 256
"""Functions whose output is held; of the others there is what the files have."""
PARTIAL_LINE_S = 0.05
"""How long half a line waits for its end."""
MAX_PARTIAL_BYTES = 16 << 10
MAX_LINE_BYTES = 1000
"""Of what was printed last, as `latest_line` tells it."""

StreamName = Literal["stdout", "stderr"]


class Ring:
    """The last RING_BYTES of one function's output."""

    def __init__(self, max_bytes: int = RING_BYTES) -> None:
        self._max_bytes = max_bytes
        self._chunks: deque[bytes] = deque()
        self._size_bytes = 0

    def append(self, data: bytes) -> None:
        self._chunks.append(data[-self._max_bytes :])
        self._size_bytes += len(self._chunks[-1])
        while self._size_bytes > self._max_bytes:
            self._size_bytes -= len(self._chunks.popleft())

    def tail(self, lines: int) -> bytes:
        kept = b"".join(self._chunks)
        if lines <= 0:
            return kept
        return b"".join(kept.splitlines(keepends=True)[-lines:])


class LogReader:
    """One client's terminal: output beyond what its link takes is dropped and counted."""

    def __init__(self, link: Connection) -> None:
        self._link = link
        self._dropped_bytes = 0
        link.on_resume = self._resume

    def send(self, message: LogOutput, data: bytes) -> None:
        if self._link.is_paused:
            self._dropped_bytes += len(data)
        else:
            self._link.send(message, data)

    def _resume(self) -> None:
        if self._dropped_bytes:
            notice = f"[{self._dropped_bytes} bytes of output dropped]\n".encode()
            self._dropped_bytes = 0
            self._link.send(LogOutput("", "", "stderr"), notice)


class Logs:
    """Takes pods' output without ever making a pod wait."""

    def __init__(
        self,
        label_of: Callable[[str], str],
        readers_of: Callable[[str], Iterable[str]],
        files: LogFiles | None = None,
        is_shared: bool = True,
    ) -> None:
        """`label_of` and `readers_of` take a pod id: what it is bound to, and the links that its work is for.

        `is_shared`: other people's output is not shown; otherwise output without a known reader goes to all.
        """
        self._label_of = label_of
        self._readers_of = readers_of
        self._files = files
        self._is_shared = is_shared
        self._rings: dict[str, Ring] = {}
        self._readers: dict[str, LogReader] = {}
        self._followers: dict[str, set[str]] = {}
        """Link id to the functions whose output it asked for."""
        self._latest_lines: dict[str, str] = {}
        """By id of a pod or template that may still bring output."""
        self.num_open = 0
        """Connections of pods that may still bring output."""

    def add_reader(self, link_id: str, link: Connection) -> None:
        self._readers[link_id] = LogReader(link)

    def remove_reader(self, link_id: str) -> None:
        self._readers.pop(link_id, None)
        self._followers.pop(link_id, None)

    def follow(self, link_id: str, label: str) -> None:
        """From now on this link gets all output of a function (`app/name`)."""
        self._followers.setdefault(link_id, set()).add(label)

    def labels(self) -> list[str]:
        """What has printed."""
        return sorted(self._rings)

    def tail(self, label: str, lines: int) -> bytes:
        """The last `lines` of one function (all that is held where 0); an earlier controller's where this has none."""
        ring = self._rings.get(label)
        if ring is None:
            earlier = self._files.tail(label, RING_BYTES) if self._files is not None else b""
            ring = Ring()
            ring.append(earlier)
        return ring.tail(lines)

    def latest_line(self, pod_id: str) -> str:
        """What a pod or template that is there has printed last; empty where that is nothing."""
        return self._latest_lines.get(pod_id, "")

    def forget_line(self, pod_id: str) -> None:
        """A connection of it has ended."""
        self._latest_lines.pop(pod_id, None)

    def written(self, pod_id: str, stream: StreamName, data: bytes) -> None:
        if line := data[-MAX_LINE_BYTES:].rstrip().rpartition(b"\n")[2].strip():
            self._latest_lines[pod_id] = line.decode("utf-8", "replace")
        label = self._label_of(pod_id)
        ring = self._rings.pop(label, None) or Ring()
        self._rings[label] = ring  # the latest last
        while len(self._rings) > NUM_RINGS:
            del self._rings[next(iter(self._rings))]
        ring.append(data)
        if self._files is not None:
            self._files.write(label, data)
        message = LogOutput(pod_id, label, stream)
        followers = [link_id for link_id, labels in self._followers.items() if label in labels]
        concerned = [*self._readers_of(pod_id), *followers]
        if not concerned and not self._is_shared:
            concerned = list(self._readers)
        for link_id in dict.fromkeys(concerned):
            reader = self._readers.get(link_id)
            if reader is not None:
                reader.send(message, data)
        if not self._readers and not self._is_shared:
            _print_here(data)


def _print_here(data: bytes) -> None:
    """An embedded controller's standard error is its script's, which has closed its link and waits for the end: what
    exit hooks print comes then."""
    with contextlib.suppress(OSError):
        os.write(2, data)


class LogLink:
    """Handler of one log connection: the standard output or error of one pod."""

    def __init__(self, pod_id: str, stream: StreamName, logs: Logs) -> None:
        self._pod_id = pod_id
        self._stream: StreamName = stream
        self._logs = logs
        self._partial = b""
        logs.num_open += 1
        self._timer: Timer | None = None

    def bytes_received(self, data: memoryview) -> None:
        """Whole lines go on at once, half a line after a moment: two pods' lines do not mix."""
        text = self._partial + bytes(data)
        end = text.rfind(b"\n") + 1
        if len(text) - end > MAX_PARTIAL_BYTES:
            end = len(text)
        self._partial = text[end:]
        if end:
            self._logs.written(self._pod_id, self._stream, text[:end])
        if self._partial and self._timer is None:
            self._timer = running_reactor().call_later(PARTIAL_LINE_S, self.flush)

    def flush(self) -> None:
        self._timer = None
        if self._partial:
            text, self._partial = self._partial, b""
            self._logs.written(self._pod_id, self._stream, text)

    def link_closed(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
        self.flush()
        self._logs.forget_line(self._pod_id)
        self._logs.num_open -= 1
