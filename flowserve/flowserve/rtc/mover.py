"""Mover: carries out the master's moves beside the running steps, in one thread.

What keeps a block from being read or written at the wrong time:
  * moves are carried out in the order they were planned, except that those that leave the device go first (nothing
    that was planned before touches the slot they fill) and those to the device may be held back;
  * a batch runs when all moves that leave the device are done (`wait_for_reads`): it may write what they read;
  * a move to the device begins when the step named with it is done (`step_done`): that one may still write there.
"""

from __future__ import annotations

import logging
import threading
import time
from collections import deque
from collections.abc import Sequence

from ..device.base import BlockStorage
from .moves import Move, MoveResult, Tier
from .tier_storage import BlockFile, BlockLostError, HostArena

LINGER_S = 0.5
"""How long the thread waits for more before it ends; the next move starts another."""

_logger = logging.getLogger("flowserve")


class Mover:
    """The thread exists only while there are moves, so building a Mover starts none, and none outlives its use."""

    def __init__(self, storage: BlockStorage, host: HostArena, file: BlockFile | None) -> None:
        self.storage: BlockStorage | None = storage  # None while there is no device to move to or from
        self._host = host
        self._file = file
        self._staging = memoryview(bytearray(storage.block_bytes)) if file else memoryview(b"")
        self._lost: set[tuple[Tier, int]] = set()  # slots that do not hold what the master believes
        self._logged: set[str] = set()
        self._changed = threading.Condition()
        # All below is guarded by `_changed`.
        self._reads: deque[Move] = deque()  # moves that leave the device: the next batch waits for them
        self._ready: deque[Move] = deque()
        self._held: deque[tuple[int, Move]] = deque()  # moves to the device, with the step they wait for
        self._results: list[MoveResult] = []
        self._num_reads = 0  # of `_reads`, and the one that is being carried out
        self._last_step_done = 0
        self._thread: threading.Thread | None = None

    def submit(self, moves: Sequence[Move], after_step: int) -> None:
        """Carry out `moves`, those to the device when `after_step` (see `step_done`) is done."""
        with self._changed:
            for move in moves:
                if move.fills_device:
                    self._held.append((after_step, move))
                elif move.leaves_device:
                    self._reads.append(move)
                    self._num_reads += 1
                else:
                    self._ready.append(move)
            self._release()

    def step_done(self, step: int) -> None:
        """All steps up to this one are done."""
        with self._changed:
            self._last_step_done = step
            self._release()

    def wait_for_reads(self) -> None:
        """Until no move has to read the device any more."""
        with self._changed:
            while self._num_reads > 0:
                self._changed.wait()

    def take_results(self) -> list[MoveResult]:
        """What was done since the last call, in that order."""
        with self._changed:
            results, self._results = self._results, []
        return results

    def wait_for_result(self, timeout_s: float) -> None:
        """Until `take_results` has something to give, or the time is over."""
        with self._changed:
            self._changed.wait_for(lambda: self._results, timeout_s)

    def close(self) -> None:
        """Give up all moves and the file."""
        with self._changed:
            self._reads.clear()
            self._ready.clear()
            self._held.clear()
            self._num_reads = 0
            thread = self._thread
            self._changed.notify_all()
        if thread is not None and thread is not threading.current_thread():  # it may be the one that collects an engine
            thread.join()
        if self._file is not None:
            self._file.close()

    def _release(self) -> None:
        while self._held and self._held[0][0] <= self._last_step_done:
            self._ready.append(self._held.popleft()[1])
        if (self._reads or self._ready) and self._thread is None:
            thread = threading.Thread(target=self._run, name="flowserve-mover", daemon=True)
            thread.start()  # one that could not start must not be waited for
            self._thread = thread
        self._changed.notify_all()

    def _run(self) -> None:
        while True:
            with self._changed:
                if not self._changed.wait_for(lambda: self._reads or self._ready, LINGER_S):
                    self._thread = None
                    return
                move = (self._reads or self._ready).popleft()
            result = self._carry_out(move)
            with self._changed:
                self._results.append(result)
                self._num_reads -= move.leaves_device
                self._changed.notify_all()

    def _carry_out(self, move: Move) -> MoveResult:
        began_s = time.perf_counter()
        target = (move.target, move.target_slot)
        try:
            if (move.source, move.source_slot) in self._lost:
                raise BlockLostError("an earlier move of the block failed")
            self._copy(move)
        except Exception as error:  # whatever it was, the block is computed again
            reason = str(error) if isinstance(error, BlockLostError) else f"unexpected: {type(error).__name__}"
            if move.target is not Tier.DEVICE:
                self._lost.add(target)
            if reason not in self._logged:
                self._logged.add(reason)
                _logger.warning("KV cache: %s; what is lost is computed again", reason, exc_info=error)
            return MoveResult(move, reason, time.perf_counter() - began_s)
        self._lost.discard(target)
        return MoveResult(move, None, time.perf_counter() - began_s)

    def _copy(self, move: Move) -> None:
        if move.source is Tier.DEVICE:
            self._device.read_block(move.source_slot, self._host.slot(move.target_slot))
        elif move.source is Tier.HOST and move.target is Tier.DEVICE:
            self._device.write_block(move.target_slot, self._host.slot(move.source_slot))
        elif move.source is Tier.HOST:
            self._block_file.write(move.target_slot, self._host.slot(move.source_slot))
        else:
            self._block_file.read(move.source_slot, self._staging)
            self._device.write_block(move.target_slot, self._staging)

    @property
    def _device(self) -> BlockStorage:
        assert self.storage is not None
        return self.storage

    @property
    def _block_file(self) -> BlockFile:
        assert self._file is not None
        return self._file
