"""The items of one stream on their way out of the pod: numbered, several to a frame where they come quickly."""

from __future__ import annotations

import queue
import threading
import time
from typing import TYPE_CHECKING

from deepserve.protocol.framing import Buffer
from deepserve.protocol.journals import packed
from deepserve.protocol.messages import AssignTask, TaskOutputs, Value
from deepserve_runtime import sdk

if TYPE_CHECKING:
    from deepserve_runtime.link import Link

FLUSH_S = 0.001
"""How long an item may lie here, counted from the last write: one that comes alone goes at once."""
MAX_ITEMS = 256
MAX_BYTES = 64 << 10
"""More than this is not gathered."""
DIGEST_BYTES = 16


class Outputs:
    """Filled by the thread that runs the generator; written by it, or by the flusher when it does something else.

    With replay `verify` a digest of all items goes along. A later attempt makes those that were passed on again: they
    are not sent but taken into the digest, which then has to be the same.
    """

    def __init__(self, link: Link, assignment: AssignTask) -> None:
        self._link = link
        self._key = (assignment.task_id, assignment.attempt)
        self._lock = threading.Lock()
        """Held while writing, so that batches leave in their order."""
        self._pending: list[tuple[Value, Buffer]] = []
        self._pending_bytes = 0
        self._journal = b""
        """That of the pending items."""
        self._sent_s = -1.0
        self._digest = b"" if assignment.replay == "verify" else None
        self._num_replayed = 0
        self._num_to_replay = assignment.resume_offset if assignment.replay == "verify" else 0
        self._digest_to_be = assignment.resume_digest
        self._sent_to = assignment.resume_offset

    @property
    def num_items(self) -> int:
        """Of the whole stream."""
        return self._sent_to + len(self._pending)

    @property
    def is_replaying(self) -> bool:
        """The next item was passed on by an earlier attempt."""
        return self._num_replayed < self._num_to_replay

    @property
    def due_s(self) -> float:
        return self._sent_s + FLUSH_S

    def replay(self, value: Value, payload: Buffer) -> None:
        """Instead of `add`, while there are items to be made again. Raises StreamReplayMismatch."""
        self._num_replayed += 1
        self._take_in(value, payload)
        if not self.is_replaying and self._digest != self._digest_to_be:
            raise sdk.errors.StreamReplayMismatch(
                f"the first {self._num_to_replay} items differ from those that an earlier attempt has passed on"
            )

    def check_replayed(self) -> None:
        """At the generator's end. Raises StreamReplayMismatch."""
        if self.is_replaying:
            raise sdk.errors.StreamReplayMismatch(
                f"this attempt ended after {self._num_replayed} items; an earlier one has passed on "
                f"{self._num_to_replay}"
            )

    def add(self, value: Value, payload: Buffer, has_room: bool, journal: bytes = b"") -> None:
        """One more item. has_room: the reader's credit goes on behind it, so that others may join it."""
        with self._lock:
            self._take_in(value, payload)
            self._pending.append((value, payload))
            self._pending_bytes += len(payload)
            self._journal += journal
            now_s = time.perf_counter()
            is_full = self._pending_bytes >= MAX_BYTES or len(self._pending) >= MAX_ITEMS
            if not has_room or is_full or now_s - self._sent_s >= FLUSH_S:
                self._write(now_s)
            elif len(self._pending) == 1:
                _flusher.later(self)

    def note(self, journal: bytes) -> None:
        """More for the journal, and nothing for the reader."""
        with self._lock:
            self._journal += journal
            self._write(time.perf_counter())

    def gather(self) -> None:
        """From now on items may wait for others, as if one had been written just now."""
        self._sent_s = time.perf_counter()

    def flush(self) -> None:
        with self._lock:
            if self._pending:
                self._write(time.perf_counter())

    def _write(self, now_s: float) -> None:
        pending, self._pending = self._pending, []
        journal, self._journal = self._journal, b""
        offset = self._sent_to
        self._sent_to += len(pending)  # before the send, behind which a cancel may raise
        self._pending_bytes, self._sent_s = 0, now_s
        task_id, attempt = self._key
        values = tuple([value for value, _ in pending])
        payload = pending[0][1] if len(pending) == 1 else b"".join([data for _, data in pending])
        self._link.send(*packed(TaskOutputs(task_id, attempt, offset, values, self._digest or b"", journal), payload))

    def _take_in(self, value: Value, payload: Buffer) -> None:
        if self._digest is not None:
            import hashlib  # with OpenSSL, and only where a replay is verified

            item = hashlib.blake2b(self._digest, digest_size=DIGEST_BYTES)
            item.update(f"{value.format} {len(payload)} ".encode())
            item.update(payload)
            self._digest = item.digest()


class OutputFlusher:
    """One thread for all streams of the pod, started by the first item that does not leave at once."""

    def __init__(self) -> None:
        self._waiting: queue.SimpleQueue[Outputs] = queue.SimpleQueue()
        self._start_lock = threading.Lock()
        self._is_started = False

    def later(self, outputs: Outputs) -> None:
        self._waiting.put(outputs)
        if not self._is_started:
            with self._start_lock:
                if not self._is_started:
                    self._is_started = True
                    threading.Thread(target=self._run, name="deepserve-flush", daemon=True).start()

    def _run(self) -> None:
        while True:
            outputs = self._waiting.get()
            wait_s = outputs.due_s - time.perf_counter()
            if wait_s > 0:
                time.sleep(wait_s)
            try:
                outputs.flush()
            except ConnectionError:  # who reads the link hears of it too
                continue


_flusher = OutputFlusher()
