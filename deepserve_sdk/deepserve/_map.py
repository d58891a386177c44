"""`map`: one request of many inputs, with a window on how far the inputs may run ahead of the outputs."""

from __future__ import annotations

from collections import deque
from collections.abc import AsyncIterable, AsyncIterator, Iterable, Iterator
from typing import Any

from deepserve._callee import Callee
from deepserve._client import Client
from deepserve._map_inputs import Arguments, InlineInputs, TaskInputs, ThreadInputs
from deepserve.errors import DeepServeError
from deepserve.protocol.messages import ItemFinished
from deepserve.protocol.specs import Scaling

Inputs = InlineInputs | ThreadInputs | TaskInputs

SMALLEST_WINDOW = 64
LARGEST_WINDOW = 1000
_NOTHING = object()


class MapOptions:
    """kwargs: keyword arguments of every input. max_in_flight: inputs read that were not yielded yet."""

    __slots__ = ("kwargs", "max_in_flight", "order_outputs", "return_exceptions")

    def __init__(
        self,
        *,
        kwargs: dict[str, Any] | None = None,
        order_outputs: bool = True,
        return_exceptions: bool = False,
        max_in_flight: int | None = None,
    ) -> None:
        if max_in_flight is not None and (not isinstance(max_in_flight, int) or max_in_flight < 1):
            raise ValueError(f"max_in_flight={max_in_flight!r} is no number of inputs: give 1 or more")
        self.kwargs = kwargs or {}
        self.order_outputs = order_outputs
        self.return_exceptions = return_exceptions
        self.max_in_flight = max_in_flight


def window_of(scaling: Scaling) -> int:
    """Twice what the pods can run at once, within bounds."""
    return max(SMALLEST_WINDOW, min(LARGEST_WINDOW, 2 * scaling.max_pods * scaling.max_inputs))


class MapRun:
    """State of one map, shared by the blocking and the asynchronous loop."""

    def __init__(self, callee: Callee, client: Client, options: MapOptions) -> None:
        self._callee = callee
        self._client = client
        self._options = options
        self._definition = callee.define()
        spec = self._definition.spec
        self._window = options.max_in_flight or window_of(spec.scaling if spec is not None else Scaling())
        self._num_sent = 0
        self._num_yielded = 0
        self._are_inputs_over = False
        self._ready: dict[int, tuple[ItemFinished, bytes]] = {}
        self._arrived: deque[int] = deque()
        self._inputs: Inputs = InlineInputs(())
        self.inbox = callee.open_map(client)

    def read(self, inputs: Inputs) -> None:
        self._inputs = inputs

    @property
    def wants_input(self) -> bool:
        return not self._are_inputs_over and self._num_sent - self._num_yielded < self._window

    def take_input(self) -> Arguments | None:
        """None while there is none; the inputs' end is told the controller. Raises what reading them raises."""
        self.inbox.has_inputs = False
        if not self.wants_input:
            return None
        try:
            return self._inputs.take(self._num_yielded + self._window)
        except StopIteration:
            self._are_inputs_over = True
            self._client.end_inputs(self.inbox, self._num_sent)
            return None

    @property
    def is_over(self) -> bool:
        return self._are_inputs_over and self._num_yielded == self._num_sent

    def send(self, arguments: Arguments) -> None:
        """Raises UnpicklableArgument, ValueTooLarge, with `input_index`."""
        try:
            value, payload, depends_on = self._callee.encode(
                self._client, self._definition, arguments, self._options.kwargs
            )
        except Exception as error:
            raise _with_index(error, self._num_sent) from error.__cause__
        self._client.send_input(self.inbox, self._num_sent, value, payload, depends_on)
        self._num_sent += 1

    def take(self) -> Any:
        """The next output, or _NOTHING. Raises its exception unless exceptions are returned."""
        has_ended = self.inbox.is_over  # looked at before the items, which come before the end
        while self.inbox.items:
            item = self.inbox.items.popleft()
            assert isinstance(item.message, ItemFinished)
            self._ready[item.message.index] = (item.message, item.payload)
            self._arrived.append(item.message.index)
        index = self._next_index()
        if index is None:
            if has_ended and not self.is_over and self._num_sent:
                self._raise_end()
            return _NOTHING
        message, payload = self._ready.pop(index)
        self._num_yielded += 1
        try:
            return self._client.decode(message, payload, self._definition.label)
        except Exception as error:
            _with_index(error, index)
            if self._options.return_exceptions:
                return error
            raise

    def _next_index(self) -> int | None:
        if self._options.order_outputs:
            return self._num_yielded if self._num_yielded in self._ready else None
        return self._arrived.popleft() if self._arrived else None

    def _raise_end(self) -> None:
        """The request ended although inputs are open."""
        self._client.result(self.inbox, self._definition.label)
        missing = self._num_sent - self._num_yielded
        raise DeepServeError(f"{self._definition.label}: {missing} outputs of {self.inbox.request_id} never came")

    def leave(self) -> None:
        """Cancel what is left."""
        self._inputs.close()
        for message, _ in self._ready.values():
            self._client.discard(message.value)
        if self.is_over:
            self._client.drop(self.inbox)
        else:
            self._client.abandon(self.inbox)


def run_map(
    callee: Callee, inputs: Iterable[Arguments], options: MapOptions, *, may_wait: bool = True
) -> Iterator[Any]:
    """Outputs as they come (in order, unless asked otherwise). Starts at the first `next`.

    may_wait: reading the inputs may take time, in which outputs go on; it is done by a thread of its own.
    """
    run = MapRun(callee, callee.blocking_client("map"), options)
    try:
        run.read(ThreadInputs(inputs, run.inbox.put_inputs) if may_wait else InlineInputs(inputs))
        while not run.is_over:
            if (output := run.take()) is not _NOTHING:
                yield output
            elif (arguments := run.take_input()) is not None:
                run.send(arguments)
            elif not run.is_over:
                run._client.wait(run.inbox)
    finally:
        run.leave()


async def run_map_async(
    callee: Callee, client: Client, inputs: Iterable[Arguments] | AsyncIterable[Arguments], options: MapOptions
) -> AsyncIterator[Any]:
    """The same on an event loop; the inputs may be an asynchronous iterable."""
    run = MapRun(callee, client, options)
    try:
        if isinstance(inputs, AsyncIterable):
            run.read(TaskInputs(inputs, run.inbox.put_inputs))
        else:
            run.read(InlineInputs(inputs))
        while not run.is_over:
            if (output := run.take()) is not _NOTHING:
                yield output
            elif (arguments := run.take_input()) is not None:
                run.send(arguments)
            elif not run.is_over:
                await client.wait_async(run.inbox)
    finally:
        run.leave()


def _with_index(error: Exception, index: int) -> Exception:
    """Name the input that failed."""
    try:
        error.input_index = index  # type: ignore[attr-defined]
        error.add_note(f"input {index} of the map")
    except AttributeError:  # a class with __slots__
        pass
    return error
