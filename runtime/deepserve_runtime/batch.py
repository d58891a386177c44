"""A batch of tasks in a pod: what it calls, how it is interrupted, and how it is run again in parts."""

from __future__ import annotations

import inspect
from collections import deque
from collections.abc import Callable, Generator, Iterator
from typing import TYPE_CHECKING, Any, NamedTuple

from deepserve_runtime import plain_values, sdk
from deepserve_runtime.core.lifecycle import TaskKey
from deepserve_runtime.target import Target
from deepserve_runtime.task import Task

if TYPE_CHECKING:
    from deepserve.protocol.framing import Buffer
    from deepserve.protocol.messages import Value

Fail = Callable[[Task, BaseException], None]
Encode = Callable[[Task, Any], "tuple[Value, Buffer]"]


class Item(NamedTuple):
    """A task with its decoded input."""

    task: Task
    args: tuple[Any, ...]
    kwargs: dict[str, Any]


class Part(NamedTuple):
    """Items that are called together: all give the same parameters."""

    function: Callable[..., Any]
    items: list[Item]

    def call(self) -> Any:
        columns = [list(column) for column in zip(*(item.args for item in self.items), strict=True)]
        by_name = {name: [item.kwargs[name] for item in self.items] for name in self.items[0].kwargs}
        return self.function(*columns, **by_name)

    def unfinished(self) -> Part:
        """Without what was cancelled meanwhile."""
        return Part(self.function, [item for item in self.items if not item.task.is_finished])

    def halves(self) -> tuple[Part, Part]:
        middle = len(self.items) // 2
        return Part(self.function, self.items[:middle]), Part(self.function, self.items[middle:])


class Batch(Task):
    """Tasks that run as one. For the thread or loop that runs it it is a task, which nobody assigned.

    Inside it `deepserve.context()` is that of its first task, and so calls made inside it are children of that one.
    """

    def __init__(
        self, tasks: list[Task], target: Target, fail: Fail, encode: Encode, on_end: Callable[[Batch], None]
    ) -> None:
        super().__init__(tasks[0].pod, tasks[0].assignment, b"", _put_away)
        assert target.batching is not None
        self.tasks = tasks
        self.on_end = on_end
        """Called once, when its code has ended; tasks that are unfinished then run again."""
        self.target = target
        self.has_ended = False
        self.decoded: dict[TaskKey, Item] = {}
        """Inputs, for the run after this one: their payloads are read once."""
        self._batching = target.batching
        self._fail_task = fail
        self._encode = encode

    @property
    def unfinished(self) -> list[Task]:
        return [task for task in self.tasks if not task.is_finished]

    def drop(self, task: Task) -> None:
        """On the reader thread: one of its tasks was told to stop.

        A cancelled one ends at once and the others go on, as long as there are any. One that ran over its time ends
        with the code that it waits for: nobody knows which item is to blame.
        """
        if task.cancel_reason == "timeout":
            self.cancel("timeout")
            return
        task.finish_cancelled()
        if not self.unfinished:
            self.cancel("cancelled")

    def finish_cancelled(self) -> None:
        """Its coroutine was cancelled before it began."""
        self.on_end(self)

    def fail(self, error: BaseException, may_retry: bool = False) -> None:
        for task in self.unfinished:
            task.fail(error)
        self.on_end(self)

    def work(self) -> Generator[Part, Any, None]:
        """Yields what to call, is sent what it returned or thrown what it raised, and ends the tasks.

        Tasks that are unfinished at its end were interrupted: the batch was told to stop.
        """
        parts = deque(self._parts())
        while parts:
            part = parts.popleft().unfinished()
            if not part.items:
                continue
            try:
                returned = yield part
            except BaseException as error:
                if self.cancel_reason:
                    self._note_rerun(part)
                    return
                if len(part.items) == 1:
                    self._fail(part.items[0].task, error)
                else:
                    self._note_rerun(part)
                    parts.extendleft(reversed(part.halves()))
            else:
                self._end(part, returned)

    def _note_rerun(self, part: Part) -> None:
        for item in part.items:
            item.task.num_reruns += 1

    def _end(self, part: Part, returned: Any) -> None:
        try:
            results = sdk.batch_results(self._batching.target, returned, len(part.items))
        except sdk.errors.BatchMismatch as error:
            for item in part.items:
                self._fail(item.task, error, may_retry=False)
            return
        for item, result in zip(part.items, results, strict=True):
            if isinstance(result, BaseException):
                self._fail(item.task, result)
            else:
                self._finish_task(item.task, result)

    def _finish_task(self, task: Task, result: Any) -> None:
        try:
            value, payload = self._encode(task, result)
        except BaseException as error:
            self._fail(task, error)
        else:
            task.close_to_interrupts()
            task.finish(value, payload)

    def _fail(self, task: Task, error: BaseException, may_retry: bool = True) -> None:
        task.close_to_interrupts()
        if may_retry:
            self._fail_task(task, error)
        else:
            task.fail(error)

    # --- its items --------------------------------------------------------------------------------------

    def _parts(self) -> Iterator[Part]:
        """Each as large as one run may be. An input that cannot be used fails alone."""
        signature = inspect.signature(self.target.call)
        groups: dict[tuple[Any, ...], list[Item]] = {}
        for task in self.unfinished:
            try:
                item = self.decoded.get(task.key) or self._decode(task, signature)
            except BaseException as error:
                self._fail(task, error)
            else:
                groups.setdefault((len(item.args), *sorted(item.kwargs)), []).append(item)
        for items in groups.values():
            for sized in self._by_size(items):
                yield Part(self._batching.target, sized)

    def _decode(self, task: Task, signature: inspect.Signature) -> Item:
        args, kwargs = plain_values.arguments(task, self.target.call)
        try:
            bound = signature.bind(*args, **kwargs)
        except TypeError as error:
            name = getattr(self.target.call, "__qualname__", self.target.call)
            raise TypeError(f"{name}(): {error}") from None
        item = self.decoded[task.key] = Item(task, bound.args, bound.kwargs)
        return item

    def _by_size(self, items: list[Item]) -> Iterator[list[Item]]:
        """Runs whose sizes add up to at most `max_batch_size`."""
        size_fn = self._batching.size_fn
        if size_fn is None:
            yield items
            return
        taken: list[Item] = []
        total = 0.0
        for item in items:
            try:
                size = size_fn(*item.args, **item.kwargs)
                is_over = total + size > self._batching.max_batch_size
            except BaseException as error:
                self._fail(item.task, error)
                continue
            if taken and is_over:
                yield taken
                taken, total = [], 0.0
            taken.append(item)
            total += size
        if taken:
            yield taken


def _put_away(batch: Task) -> None:
    """Nobody waits for a batch itself."""
