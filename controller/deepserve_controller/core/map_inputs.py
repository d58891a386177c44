"""MapInputs: what waits of a map, kept as the frames in which it came and not input by input."""

from __future__ import annotations

from collections import deque
from typing import TYPE_CHECKING

import msgspec

from deepserve.protocol.messages import Value
from deepserve_controller.core.events import Payload

if TYPE_CHECKING:
    from deepserve_controller.core.function_queue import FunctionQueue
    from deepserve_controller.core.job import Job

Bytes = bytes | memoryview


class Run(msgspec.Struct, frozen=True):
    """Inputs with consecutive indices, their pickles one behind the other.

    single: of an input that came alone; its value may be in a segment. `sizes` has one entry then.
    """

    first_index: int
    sizes: list[int]
    data: Bytes
    python: str
    arrived_s: float
    single: Payload | None = None

    def __len__(self) -> int:
        return len(self.sizes)

    @property
    def end_index(self) -> int:
        return self.first_index + len(self.sizes)

    def part(self, start: int, stop: int) -> Run:
        """The inputs at positions `start` to `stop`, without a copy."""
        if start == 0 and stop == len(self.sizes):
            return self
        first_byte = sum(self.sizes[:start])
        sizes = self.sizes[start:stop]
        data = memoryview(self.data)[first_byte : first_byte + sum(sizes)]
        return Run(self.first_index + start, sizes, data, self.python, self.arrived_s)

    def payload(self, position: int) -> Payload:
        """Of one input, as if it had come alone."""
        if self.single is not None:
            return self.single
        data = bytes(self.part(position, position + 1).data)
        return Payload(Value("pickle", len(data), self.python), data)


class MapInputs(msgspec.Struct, eq=False):
    """In the order in which they are to run: those that were given back first."""

    job: Job
    function: FunctionQueue
    runs: deque[Run] = msgspec.field(default_factory=deque)
    num_waiting: int = 0

    def put(self, run: Run) -> None:
        self.runs.append(run)
        self._count(len(run))

    def put_back(self, run: Run) -> None:
        self.runs.appendleft(run)
        self._count(len(run))

    def take(self, limit: int) -> Run:
        """At most `limit` from the front: those with consecutive indices that may travel in one frame."""
        taken = [self._take_front(limit)]
        count = len(taken[0])
        while count < limit and self.runs and self._may_join(taken[-1], self.runs[0]):
            taken.append(self._take_front(limit - count))
            count += len(taken[-1])
        if len(taken) == 1:
            return taken[0]
        sizes = [size for run in taken for size in run.sizes]
        first = taken[0]
        return Run(first.first_index, sizes, b"".join(run.data for run in taken), first.python, first.arrived_s)

    def _take_front(self, limit: int) -> Run:
        run = self.runs.popleft()
        if len(run) > limit:
            self.runs.appendleft(run.part(limit, len(run)))
            run = run.part(0, limit)
        self._count(-len(run))
        return run

    def _count(self, num_more: int) -> None:
        self.num_waiting += num_more
        self.function.num_map_inputs += num_more

    def _may_join(self, run: Run, following: Run) -> bool:
        are_many = run.single is None and following.single is None
        return are_many and following.first_index == run.end_index and following.python == run.python

    def take_all(self) -> list[Run]:
        runs = list(self.runs)
        self.runs.clear()
        self._count(-self.num_waiting)
        return runs

    def check_invariants(self) -> None:
        waiting = sum(len(run) for run in self.runs)
        assert waiting == self.num_waiting, f"{self.job.request_id}: {waiting} inputs wait, counted {self.num_waiting}"
        for run in self.runs:
            assert run.single is not None or sum(run.sizes) == len(run.data), f"{self.job.request_id}: sizes are wrong"
