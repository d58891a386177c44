"""Chunks on the pods of a chaotic world: every input ends once, and none begins twice without being counted."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from random import Random

from deepserve.protocol.messages import Outcome, Value
from deepserve_controller.core import actions, events
from deepserve_controller.core.events import Event, Payload
from tests.unit.deepserve_controller.harness import OK


def input_bytes(index: int) -> bytes:
    """What an input of the world's maps holds: no two neighbours are alike, nor equally long."""
    return bytes([index % 251]) * (index % 3 + 1)


def many_inputs(request_id: str, first_index: int, count: int) -> events.MapInputsArrived:
    parts = [input_bytes(index) for index in range(first_index, first_index + count)]
    return events.MapInputsArrived(request_id, first_index, [len(part) for part in parts], b"".join(parts))


@dataclass
class PodChunk:
    """As its pod sees it: inputs have begun, are done, and have been told, in this order."""

    order: actions.SendChunk
    end: int
    num_begun: int = 0
    num_done: int = 0
    num_told: int = 0

    @property
    def is_running(self) -> bool:
        return self.num_begun > self.num_done

    @property
    def is_over(self) -> bool:
        return self.num_told == self.end


class ChunkWorld:
    def __init__(self, random: Random) -> None:
        self._random = random
        self._attempts: dict[tuple[str, int], int] = {}

    def begin_chunk(self, order: actions.SendChunk) -> PodChunk:
        assert len(order.sizes) > 1, "a chunk of one input is a task"
        indices = range(order.first_index, order.first_index + len(order.sizes))
        assert bytes(order.data) == b"".join(map(input_bytes, indices)), f"{order.task_id} holds other inputs"
        return PodChunk(order, len(order.sizes))

    def begin(self, request_id: str, index: int, attempt: int) -> None:
        """The user's code begins."""
        key = request_id, index
        assert attempt > self._attempts.get(key, 0), f"{key} runs a second time as attempt {attempt}"
        self._attempts[key] = attempt

    def steps(self, chunk: PodChunk, only_well: bool) -> list[Event]:
        """The pod goes on: an input begins or ends, and now and then what has ended is told."""
        for _ in range(self._random.randint(1, 4)):
            if chunk.is_running:
                chunk.num_done += 1
            elif chunk.num_begun < chunk.end:
                self._begin_next(chunk)
        if chunk.num_done == chunk.end or self._random.random() < 0.5:
            return list(self.tell(chunk, only_well))
        return []

    def _begin_next(self, chunk: PodChunk) -> None:
        self.begin(chunk.order.request_id, chunk.order.first_index + chunk.num_begun, chunk.order.attempt)
        chunk.num_begun += 1

    def tell(self, chunk: PodChunk, only_well: bool = False) -> Iterator[Event]:
        while chunk.num_told < chunk.num_done:
            position, order = chunk.num_told, chunk.order
            luck = 1.0 if only_well else self._random.random()
            if luck < 0.2:
                chunk.num_told += 1
                outcome = self._random.choice([OK, Outcome("error", "ValueError")])
                payload = Payload(Value("pickle", 1 << 20, segment="large")) if outcome.is_ok else Payload()
                yield events.InputFinished(
                    order.task_id, order.attempt, position, outcome, 0.01, payload, luck < 0.15 and not outcome.is_ok
                )  # fmt: skip
            else:
                count = self._random.randint(1, chunk.num_done - position)
                chunk.num_told += count
                sizes = order.sizes[position : position + count]
                at = sum(order.sizes[:position])
                data = bytes(order.data[at : at + sum(sizes)])
                yield events.InputsFinished(order.task_id, order.attempt, position, sizes, data, 0.01 * count)

    def has_input_that_calls(self, chunk: PodChunk, give: Callable[[Event], None]) -> bool:
        """Before an input makes a call of its own, its pod tells of the ends before it."""
        for event in self.tell(chunk):
            give(event)
        if not chunk.is_running and chunk.num_begun < chunk.end:
            self._begin_next(chunk)
        return chunk.is_running

    def answer_recall(self, chunk: PodChunk) -> Iterator[Event]:
        yield from self.tell(chunk)
        if not chunk.is_over:
            chunk.end = chunk.num_begun
        running_s = self._random.choice([0.0, 0.004]) if chunk.is_running else 0.0
        yield events.InputsReturned(chunk.order.task_id, chunk.order.attempt, chunk.end, running_s)

    def obey_cancel(self, chunk: PodChunk) -> Iterator[Event]:
        """The input that runs is interrupted, what has not begun goes back."""
        yield from self.answer_recall(chunk)
        if chunk.is_running:
            chunk.num_done = chunk.num_told = chunk.end
            yield events.InputFinished(
                chunk.order.task_id, chunk.order.attempt, chunk.end - 1, Outcome("cancelled"), 0.01
            )  # fmt: skip

    @staticmethod
    def check_items(items: actions.FinishItems) -> None:
        indices = range(items.first_index, items.first_index + len(items.sizes))
        assert bytes(items.data) == b"".join(map(input_bytes, indices)), "results of other inputs"
