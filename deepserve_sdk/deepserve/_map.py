"""`map`: one request of many inputs, with a window on how far the inputs may run ahead of the outputs."""

from __future__ import annotations

from collections.abc import AsyncIterable, AsyncIterator, Iterable, Iterator
from typing import Any

from deepserve._callee import Callee
from deepserve._client import Client
from deepserve._map_batch import InputBatch
from deepserve._map_inputs import Arguments, InlineInputs, Inputs, read_blocking, read_on_loop
from deepserve._map_outputs import MapOutputs, with_index
from deepserve.errors import DeepServeError
from deepserve.protocol.specs import Scaling

SMALLEST_WINDOW = 64
LARGEST_WINDOW = 1000
WINDOW_BYTES = 32 << 20
"""Of inputs, as they travel, beyond which a window does not grow."""
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
    """Twice what the pods can run at once, within bounds; it grows to the upper bound where calls are short."""
    return max(SMALLEST_WINDOW, min(LARGEST_WINDOW, 2 * scaling.max_pods * scaling.max_inputs))


class MapRun:
    """State of one map, shared by the blocking and the asynchronous loop.

    Inputs are read when a good part of the window is free, or nothing else is to be done, and go many in a frame.
    """

    def __init__(self, callee: Callee, client: Client, options: MapOptions) -> None:
        self._callee = callee
        self._client = client
        self._options = options
        self._definition = callee.define()
        spec = self._definition.spec
        self._window = options.max_in_flight or window_of(spec.scaling if spec is not None else Scaling())
        self._may_grow = options.max_in_flight is None
        self._num_yielded = 0
        self._are_inputs_over = False
        self._inputs: Inputs = InlineInputs(())
        self.inbox = callee.open_map(client)
        self._batch = InputBatch(client, self.inbox)
        self._outputs = MapOutputs(client, self._definition.label)

    def read(self, inputs: Inputs) -> None:
        self._inputs = inputs

    @property
    def num_free(self) -> int:
        """Inputs that may be read now."""
        return self._window - (self._batch.num_added - self._num_yielded)

    @property
    def wants_inputs(self) -> bool:
        """So many may be read that it should not wait until there is nothing else to do."""
        return not self._are_inputs_over and self.num_free * 4 >= self._window

    def send_inputs(self) -> int:
        """Read and send what is at hand and may be read; returns how many. Their end is told the controller.

        Raises what reading them raises; UnpicklableArgument, ValueTooLarge, with `input_index`.
        """
        self.inbox.has_inputs = False
        num_before = self._batch.num_added
        limit = self._num_yielded + self._window
        while not self._are_inputs_over and self._batch.num_added < limit:
            try:
                arguments = self._inputs.take(limit)
            except StopIteration:
                self._batch.end()
                self._are_inputs_over = True
                break
            if arguments is None:
                break
            self._encode(arguments)
            if not self._inputs.are_at_hand:
                break
        self._batch.flush()
        return self._batch.num_added - num_before

    def _encode(self, arguments: Arguments) -> None:
        try:
            value, payload, depends_on = self._callee.encode(
                self._client, self._definition, arguments, self._options.kwargs
            )
        except Exception as error:
            raise with_index(error, self._batch.num_added) from error.__cause__
        self._batch.add(value, payload, depends_on)

    @property
    def is_over(self) -> bool:
        return self._are_inputs_over and self._num_yielded == self._batch.num_added

    def take(self) -> Any:
        """The next output, or _NOTHING. Raises its exception unless exceptions are returned."""
        has_ended = self.inbox.is_over  # looked at before the items, which come before the end
        if self.inbox.items:
            self._outputs.collect(self.inbox)
            if self._outputs.come_many and self._may_grow:
                self._grow()
        index = self._next_index()
        if index is None:
            if has_ended and not self.is_over and self._batch.num_added:
                self._raise_end()
            return _NOTHING
        self._num_yielded += 1
        try:
            return self._outputs.take(index)
        except Exception as error:
            with_index(error, index)
            if self._options.return_exceptions:
                return error
            raise

    def _grow(self) -> None:
        """Calls are so short that outputs come many in a frame: pods finish a small window before it is refilled."""
        mean_bytes = max(1, self._batch.num_bytes_added // max(1, self._batch.num_added))
        self._window = max(self._window, min(LARGEST_WINDOW, 2 * self._window, WINDOW_BYTES // mean_bytes))
        self._may_grow = self._window < LARGEST_WINDOW

    def _next_index(self) -> int | None:
        if self._options.order_outputs:
            self._outputs.arrived.clear()  # nobody asks in which order, and a map may never end
            return self._num_yielded if self._num_yielded in self._outputs else None
        return self._outputs.arrived.popleft() if self._outputs.arrived else None

    def _raise_end(self) -> None:
        """The request ended although inputs are open."""
        self._client.values.result(self.inbox, self._definition.label)
        missing = self._batch.num_added - self._num_yielded
        raise DeepServeError(f"{self._definition.label}: {missing} outputs of {self.inbox.request_id} never came")

    def leave(self) -> None:
        """Cancel what is left."""
        self._inputs.close()
        self._outputs.discard_all()
        if self.is_over:
            self._client.inboxes.drop(self.inbox)
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
        run.read(read_blocking(inputs, run.inbox.put_inputs, may_wait=may_wait))
        while not run.is_over:
            if run.wants_inputs:
                run.send_inputs()
            if (output := run.take()) is not _NOTHING:
                yield output
            elif not run.send_inputs() and not run.is_over:
                run._client.waiting.for_news(run.inbox)
    finally:
        run.leave()


async def run_map_async(
    callee: Callee,
    client: Client,
    inputs: Iterable[Arguments] | AsyncIterable[Arguments],
    options: MapOptions,
    *,
    may_wait: bool = True,
) -> AsyncIterator[Any]:
    """The same on an event loop; the inputs may be an asynchronous iterable."""
    run = MapRun(callee, client, options)
    try:
        await client.controller.wait_on_loop()  # large inputs go to a folder of its
        run.read(read_on_loop(inputs, run.inbox.put_inputs, may_wait=may_wait))
        while not run.is_over:
            if run.wants_inputs:
                run.send_inputs()
            if (output := run.take()) is not _NOTHING:
                yield output
            elif not run.send_inputs() and not run.is_over:
                await client.waiting.for_news_async(run.inbox)
    finally:
        run.leave()
