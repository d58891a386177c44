"""CallGroup: what the user holds for a map that was spawned."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterator
from typing import Any, Generic, NamedTuple, TypeVar, cast

from deepserve._client import Client
from deepserve._current_client import current_client
from deepserve._event_loop import refuse_on_loop
from deepserve._group_results import GroupResults
from deepserve._inbox import Deadline

R = TypeVar("R")


class Progress(NamedTuple):
    """Inputs of a group: those that have ended, all of them, and how many of the ended ones failed."""

    done: int
    total: int
    failed: int


class CallGroup(Generic[R]):
    """A spawned map. (Modal's `spawn_map` gives nothing to hold.)

    Iterating gives the results in the order of the inputs, as `map` does, and `group[3]` is the call of input 3:
    `.get(timeout=)`, `.done()`. What has come stays with the group, so it can be read again. Results are decoded when
    they are taken. id: to quote, and to find the group again with `CallGroup.from_id`.
    """

    __slots__ = ("_client", "_results")

    def __init__(self, client: Client, results: GroupResults) -> None:
        self._client = client
        self._results = results
        results.inbox.holders += 1

    @classmethod
    def from_id(cls, group_id: str) -> CallGroup[Any]:
        """A group by its id; under `deepserve up` also one of another process, while its results are kept.

        Raises NotFound for what is unknown, TypeError for what is no text.
        """
        if not isinstance(group_id, str):
            raise TypeError(f"CallGroup.from_id takes a group's id, not {group_id!r}")
        client = current_client()
        inbox = client.inboxes.find(group_id)
        if inbox is None or inbox.group is None:
            total = client.query("result_info", {"request_id": group_id}).get("num_inputs")
            inbox = inbox or client.attach(group_id)
            inbox.group = GroupResults(client, inbox, group_id, total if isinstance(total, int) else None)
        return CallGroup(client, inbox.group)

    @property
    def id(self) -> str:
        return self._results.inbox.request_id

    def __len__(self) -> int:
        """How many inputs it has."""
        return self._results.total()

    def __getitem__(self, index: int) -> GroupCall[R]:
        """The call of one input; negative indices count from the end. Raises IndexError."""
        if not isinstance(index, int):
            raise TypeError(f"a group is indexed by the number of an input, not by {index!r}")
        length = len(self)
        if not -length <= index < length:
            raise IndexError(f"input {index} of a group of {length}")
        return GroupCall(self, index % length)

    def __iter__(self) -> Iterator[R]:
        return self.results()

    def __aiter__(self) -> AsyncIterator[R]:
        return self.results.aio()

    @property
    def results(self) -> ResultsVerb[R]:
        """`group.results(order_outputs=, return_exceptions=)` iterates over the results; `.aio` is its twin."""
        return ResultsVerb(self)

    @property
    def get(self) -> GatherVerb[R]:
        """`group.get(timeout=, return_exceptions=)` waits for all results and gives their list; `.aio` is its twin."""
        return GatherVerb(self)

    @property
    def progress(self) -> Progress:
        """How far it is. Never blocks where the number of inputs is known, which it is to whoever spawned it."""
        results = self._results
        results.collect()
        return Progress(results.num_done, results.total(), results.num_failed)

    def done(self) -> bool:
        """All of it has ended, well or not. Never blocks."""
        return self._results.inbox.is_over

    def status(self) -> str:
        """`pending`, or how it ended: `ok` also where inputs failed; cancelled, refused, lost ..."""
        inbox = self._results.inbox
        if inbox.finished is not None:
            return inbox.finished.outcome.kind
        return "pending" if inbox.error is None else "lost"

    def cancel(self, force: bool = False) -> None:
        """Stop what has not ended; results that are there stay. `force`: as `Call.cancel`."""
        if not self.done():
            self._client.cancel(self.id, force=bool(force))

    def __repr__(self) -> str:
        return f"<deepserve.CallGroup {self.id} of {self._results.label}: {self.status()}>"

    def __reduce__(self) -> Any:
        return CallGroup.from_id, (self.id,)

    def __del__(self) -> None:
        try:
            results, client = self._results, self._client
        except AttributeError:  # its construction failed
            return
        results.inbox.holders -= 1
        if results.inbox.holders == 0:
            results.let_go(forget=client.controller.is_embedded and not client.is_pod)


class GroupCall(Generic[R]):
    """One input of a group."""

    __slots__ = ("_group", "index")

    def __init__(self, group: CallGroup[R], index: int) -> None:
        self._group = group
        self.index = index

    @property
    def get(self) -> GroupGetVerb[R]:
        """`group[3].get(timeout=)` waits for the result; `await group[3].get.aio(timeout=)` is its twin."""
        return GroupGetVerb(self)

    def done(self) -> bool:
        """It has ended, well or not. Never blocks."""
        return self._group._results.has(self.index)

    def __repr__(self) -> str:
        return f"<deepserve.GroupCall {self.index} of {self._group.id}>"


class GroupGetVerb(Generic[R]):
    """`group[3].get(timeout=)` and `await group[3].get.aio(timeout=)`."""

    __slots__ = ("_call",)

    def __init__(self, call: GroupCall[R]) -> None:
        self._call = call

    def __call__(self, timeout: float | None = None) -> R:
        """Wait at most `timeout` seconds for the result. Raises TimeoutError while the input goes on, or its error."""
        refuse_on_loop("GroupCall.get")
        call, deadline = self._call, Deadline.after(timeout)
        results = call._group._results
        while not results.has(call.index):
            if not results.wait(call.index, deadline.left_s) and deadline.left_s == 0:
                raise TimeoutError(f"{call!r} has no result after {timeout} s (it goes on)")
        return cast(R, results.take(call.index))

    async def aio(self, timeout: float | None = None) -> R:
        call, deadline = self._call, Deadline.after(timeout)
        results = call._group._results
        while not results.has(call.index):
            if not await results.wait_async(deadline.left_s) and deadline.left_s == 0:
                raise TimeoutError(f"{call!r} has no result after {timeout} s (it goes on)")
        return cast(R, results.take(call.index))


class ResultsVerb(Generic[R]):
    """`group.results(...)` and `group.results.aio(...)`."""

    __slots__ = ("_group",)

    def __init__(self, group: CallGroup[R]) -> None:
        self._group = group

    def __call__(self, *, order_outputs: bool = True, return_exceptions: bool = False) -> Iterator[R]:
        """In the order of the inputs, or as they have ended and end. An input's exception is raised (with
        `input_index`; the group goes on) unless exceptions are returned."""
        refuse_on_loop("CallGroup.results")
        results = self._group._results
        position = 0
        while (index := results.index_at(position, order_outputs)) is not None or not results.is_complete(position):
            if index is None:
                results.wait(position if order_outputs else None)
                continue
            position += 1
            yield cast(R, results.take(index, return_exceptions))

    async def aio(self, *, order_outputs: bool = True, return_exceptions: bool = False) -> AsyncIterator[R]:
        results = self._group._results
        position = 0
        while (index := results.index_at(position, order_outputs)) is not None or not results.is_complete(position):
            if index is None:
                await results.wait_async()
                continue
            position += 1
            yield cast(R, results.take(index, return_exceptions))


class GatherVerb(Generic[R]):
    """`group.get(...)` and `group.get.aio(...)`."""

    __slots__ = ("_group",)

    def __init__(self, group: CallGroup[R]) -> None:
        self._group = group

    def __call__(self, timeout: float | None = None, *, return_exceptions: bool = False) -> list[R]:
        """All results, in order. Raises TimeoutError while the group goes on, and the first failed input's error."""
        refuse_on_loop("CallGroup.get")
        results, deadline = self._group._results, Deadline.after(timeout)
        while not results.inbox.is_over:
            if not results.wait(None, deadline.left_s) and deadline.left_s == 0:
                raise TimeoutError(f"group {self._group.id} is not done after {timeout} s (it goes on)")
        return [results.take(index, return_exceptions) for index in range(results.total())]

    async def aio(self, timeout: float | None = None, *, return_exceptions: bool = False) -> list[R]:
        results, deadline = self._group._results, Deadline.after(timeout)
        while not results.inbox.is_over:
            if not await results.wait_async(deadline.left_s) and deadline.left_s == 0:
                raise TimeoutError(f"group {self._group.id} is not done after {timeout} s (it goes on)")
        return [results.take(index, return_exceptions) for index in range(results.total())]
