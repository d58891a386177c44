"""The remote verbs of functions and methods: `f.remote(...)`, `f.spawn(...)`, `f.map(...)`, and their `.aio` twins."""

from __future__ import annotations

from collections.abc import AsyncIterable, AsyncIterator, Iterable, Iterator
from typing import Any, Generic, ParamSpec, TypeVar, cast

from deepserve import _timeline
from deepserve._call import Call
from deepserve._call_group import CallGroup
from deepserve._callee import Callee
from deepserve._current_client import current_client
from deepserve._map import MapOptions, run_map, run_map_async
from deepserve._map_inputs import Arguments, may_wait
from deepserve._spawn_map import spawn_map, spawn_map_async
from deepserve._stream import RemoteItems, StreamReader
from deepserve.errors import DeepServeError

P = ParamSpec("P")
R = TypeVar("R")
T = TypeVar("T")


class RemoteVerb(Generic[P, R]):
    """Run in a pod and wait for the result. Raises what the function raises. (Modal: `.remote`, `.remote.aio`.)"""

    __slots__ = ("_callee",)

    def __init__(self, callee: Callee) -> None:
        self._callee = callee

    def __call__(self, *args: P.args, **kwargs: P.kwargs) -> R:
        callee = self._callee
        client = callee.blocking_client("remote")
        inbox = None
        try:
            inbox = callee.open(client, args, kwargs, is_awaited=True)
            client.waiting.for_end(inbox)
            if _timeline.is_wanted():
                _timeline.finish(client, inbox.request_id)
            return cast(R, client.values.result(inbox, callee.name))
        finally:
            if inbox is not None:
                client.abandon(inbox)
            else:
                client.waiting.stop_leading()

    async def aio(self, *args: P.args, **kwargs: P.kwargs) -> R:
        callee = self._callee
        client = await callee.client_on_loop(args, kwargs)
        inbox = callee.open(client, args, kwargs)
        try:
            while not inbox.is_over:
                await client.waiting.for_news_async(inbox)
            return cast(R, client.values.result(inbox, callee.name))
        finally:
            client.abandon(inbox)


class RemoteStreamVerb(Generic[P, T]):
    """Run a generator in a pod and iterate over its items as they come; leaving the loop early stops it there."""

    __slots__ = ("_callee",)

    def __init__(self, callee: Callee) -> None:
        self._callee = callee

    def __call__(self, *args: P.args, **kwargs: P.kwargs) -> Iterator[T]:
        client = self._callee.blocking_client("remote")
        return RemoteItems(StreamReader(client, self._callee.open(client, args, kwargs), self._callee.name))

    async def aio(self, *args: P.args, **kwargs: P.kwargs) -> AsyncIterator[T]:
        client = await self._callee.client_on_loop(args, kwargs)
        inbox = self._callee.open(client, args, kwargs)
        reader = StreamReader(client, inbox, self._callee.name)
        async for _, item in reader.items_async():
            yield item


class SpawnVerb(Generic[P, R]):
    """Start a call and go on; its result is kept for the returned Call. (Modal: `.spawn`.)"""

    __slots__ = ("_callee",)

    def __init__(self, callee: Callee) -> None:
        self._callee = callee

    def __call__(self, *args: P.args, **kwargs: P.kwargs) -> Call[R]:
        client = current_client()
        return Call(client, self._callee.open(client, args, kwargs, keep=True), self._callee.name)

    async def aio(self, *args: P.args, **kwargs: P.kwargs) -> Call[R]:
        client = await self._callee.client_on_loop(args, kwargs)
        inbox = self._callee.open(client, args, kwargs, keep=True)
        return Call(client, inbox, self._callee.name)


class MapVerb(Generic[R]):
    """Run the function on every input, over as many pods as it may have. (Modal: `.map`.)

    Outputs come in the order of the inputs unless order_outputs=False. An exception ends the loop and cancels what is
    left unless return_exceptions=True; it carries `input_index`. Inputs are read at most `max_in_flight` ahead of
    the outputs that were taken (64 to 1000: twice what the pods can run, more where calls are short), by a thread of
    their own unless they are containers. kwargs: given to every call.
    """

    __slots__ = ("_callee",)

    def __init__(self, callee: Callee) -> None:
        self._callee = callee

    def __call__(
        self,
        *inputs: Iterable[Any],
        kwargs: dict[str, Any] | None = None,
        order_outputs: bool = True,
        return_exceptions: bool = False,
        max_in_flight: int | None = None,
    ) -> Iterator[R]:
        return run_map(
            _mappable(self._callee),
            self._arguments(inputs),
            _options(kwargs, order_outputs, return_exceptions, max_in_flight),
            may_wait=may_wait(inputs),
        )

    def aio(
        self,
        *inputs: Iterable[Any] | AsyncIterable[Any],
        kwargs: dict[str, Any] | None = None,
        order_outputs: bool = True,
        return_exceptions: bool = False,
        max_in_flight: int | None = None,
    ) -> AsyncIterator[R]:
        """An asynchronous iterator; a single asynchronous iterable is taken as input, too."""
        options = _options(kwargs, order_outputs, return_exceptions, max_in_flight)
        arguments = self._arguments_async(inputs)
        return run_map_async(_mappable(self._callee), current_client(), arguments, options, may_wait=may_wait(inputs))

    def _arguments(self, inputs: tuple[Iterable[Any], ...]) -> Iterable[Arguments]:
        return zip(*inputs, strict=False)

    def _arguments_async(self, inputs: tuple[Any, ...]) -> Iterable[Arguments] | AsyncIterable[Arguments]:
        if len(inputs) == 1 and isinstance(inputs[0], AsyncIterable):
            return ((item,) async for item in inputs[0])
        return self._arguments(inputs)


class StarMapVerb(MapVerb[R]):
    """As `map`, but every input is a tuple of arguments. (Modal: `.starmap`.)"""

    __slots__ = ()

    def _arguments(self, inputs: tuple[Iterable[Any], ...]) -> Iterable[Arguments]:
        if len(inputs) != 1:
            raise TypeError(f"starmap takes one iterable of argument tuples, not {len(inputs)}")
        return (tuple(arguments) for arguments in inputs[0])

    def _arguments_async(self, inputs: tuple[Any, ...]) -> Iterable[Arguments] | AsyncIterable[Arguments]:
        if len(inputs) == 1 and isinstance(inputs[0], AsyncIterable):
            return (tuple(arguments) async for arguments in inputs[0])
        return self._arguments(inputs)


class ForEachVerb:
    """Run the function on every input and throw the results away. (Modal: `.for_each`.)"""

    __slots__ = ("_callee",)

    def __init__(self, callee: Callee) -> None:
        self._callee = callee

    def __call__(
        self,
        *inputs: Iterable[Any],
        kwargs: dict[str, Any] | None = None,
        ignore_exceptions: bool = False,
        max_in_flight: int | None = None,
    ) -> None:
        options = _options(kwargs, False, ignore_exceptions, max_in_flight)
        for _ in run_map(_mappable(self._callee), zip(*inputs, strict=False), options, may_wait=may_wait(inputs)):
            pass

    async def aio(
        self,
        *inputs: Iterable[Any] | AsyncIterable[Any],
        kwargs: dict[str, Any] | None = None,
        ignore_exceptions: bool = False,
        max_in_flight: int | None = None,
    ) -> None:
        outputs = MapVerb[Any](self._callee).aio(
            *inputs,
            kwargs=kwargs,
            order_outputs=False,
            return_exceptions=ignore_exceptions,
            max_in_flight=max_in_flight,
        )
        async for _ in outputs:
            pass


class SpawnMapVerb(Generic[R]):
    """Hand all inputs over and go on; the results are kept for the returned CallGroup. (Modal: `.spawn_map`.)

    It returns when the inputs were read to their end and the controller has them, so that under `deepserve up` the
    script may end. With more than 10,000 of them unfinished it waits, so that inputs without number do not fill
    memory. kwargs: given to every call.
    """

    __slots__ = ("_callee",)

    def __init__(self, callee: Callee) -> None:
        self._callee = callee

    def __call__(self, *inputs: Iterable[Any], kwargs: dict[str, Any] | None = None) -> CallGroup[R]:
        arguments = zip(*inputs, strict=False)
        return spawn_map(_mappable(self._callee), arguments, kwargs or {}, may_wait=may_wait(inputs))

    async def aio(
        self, *inputs: Iterable[Any] | AsyncIterable[Any], kwargs: dict[str, Any] | None = None
    ) -> CallGroup[R]:
        """A single asynchronous iterable is taken as input, too."""
        arguments = MapVerb[R](self._callee)._arguments_async(inputs)
        return await spawn_map_async(
            _mappable(self._callee), current_client(), arguments, kwargs or {}, may_wait=may_wait(inputs)
        )


def _options(
    kwargs: dict[str, Any] | None, order_outputs: bool, return_exceptions: bool, max_in_flight: int | None
) -> MapOptions:
    return MapOptions(
        kwargs=kwargs,
        order_outputs=order_outputs,
        return_exceptions=return_exceptions,
        max_in_flight=max_in_flight,
    )


def _mappable(callee: Callee) -> Callee:
    if callee.is_stream:
        raise DeepServeError(f"{callee.name} is a generator: it can be streamed, not mapped")
    return callee
