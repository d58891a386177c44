"""Admission: requests wait here, not in the pods' queue, so that keys share fairly what the pods can take."""

from __future__ import annotations

import asyncio
from collections.abc import Callable

from deepserve_controller.core.admission_queue import AdmissionQueue, Window
from deepserve_controller.service.openai.fault import Fault

QUANTUM_TOKENS = 512
MAX_WAITING = 1024
"""Of one model."""
MAX_WAITING_PER_KEY = 256
"""Of one model: who floods it finds his own queue full, and the others theirs empty."""
LOOK_S = 0.05
"""While requests wait: how often it is looked whether pods have come, which nobody tells of."""

Turn = asyncio.Future[int]


class Admission:
    """One model's. `window`: how many requests may be at the pods now."""

    def __init__(self, window: Callable[[], Window]) -> None:
        self._window = window
        self._queue = AdmissionQueue[Turn](QUANTUM_TOKENS)
        self._timer: asyncio.TimerHandle | None = None

    @property
    def is_idle(self) -> bool:
        """Nobody waits, and nothing is at the pods: a new one would do as well."""
        return not len(self._queue) and not self._queue.num_admitted

    async def enter(self, key_id: str, cost: int, priority: int = 0) -> int:
        """Its turn in the engine, once this request may go there; `leave` must follow. Raises Fault where too many
        wait."""
        turn: Turn = asyncio.get_running_loop().create_future()
        self._queue.push(key_id, turn, cost, priority)
        self._admit()
        if turn.done():
            return turn.result()
        try:
            self._check_room(key_id)
            self._look_later()
            return await turn
        except BaseException:
            if not self._queue.remove(key_id, turn):
                self.leave(key_id, cost, 0)  # it had just been let in
            raise

    def leave(self, key_id: str, estimated: int, actual: int) -> None:
        """The request is over."""
        self._queue.leave(key_id, estimated, actual)
        self._admit()

    def _admit(self) -> None:
        for admitted in self._queue.admit(self._window()) if len(self._queue) else ():
            if not admitted.item.done():
                admitted.item.set_result(admitted.turn)

    def _check_room(self, key_id: str) -> None:
        if self._queue.num_waiting(key_id) > MAX_WAITING_PER_KEY:
            text = f"{MAX_WAITING_PER_KEY} requests of this key wait already; try again later"
            raise Fault(429, text, code="rate_limit_exceeded", headers={"retry-after": "1"})
        if len(self._queue) > MAX_WAITING:
            text = f"{MAX_WAITING} requests wait for this model already; try again later"
            raise Fault(503, text, code="queue_full", headers={"retry-after": "1"})

    def _look_later(self) -> None:
        if self._timer is None:
            self._timer = asyncio.get_running_loop().call_later(LOOK_S, self._look)

    def _look(self) -> None:
        self._timer = None
        self._admit()
        if len(self._queue):
            self._look_later()
