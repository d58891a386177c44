"""What a remote verb needs to know of its function or method, and how its arguments travel."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from deepserve import _timeline
from deepserve._call import Call
from deepserve._client import Client, Definition, current_client
from deepserve._event_loop import refuse_on_loop
from deepserve._inbox import Inbox
from deepserve._ref import ByReference, Ref
from deepserve._values import encode_value, is_large_piece
from deepserve.errors import UnpicklableArgument
from deepserve.protocol.framing import Buffer
from deepserve.protocol.messages import RequestKind, Value


class Callee:
    """name: what the user writes before the verb. target: the plain function, for its parameters' names."""

    __slots__ = ("define", "is_stream", "method", "name", "target")

    def __init__(
        self,
        name: str,
        target: Callable[..., Any],
        define: Callable[[], Definition],
        *,
        is_stream: bool,
        method: str = "",
    ) -> None:
        self.name = name
        self.target = target
        self.define = define
        self.is_stream = is_stream
        self.method = method

    def blocking_client(self, verb: str) -> Client:
        """The client for a verb that blocks. Raises AsyncUsageError, UnguardedCallError, ControllerUnreachable."""
        refuse_on_loop(f"{self.name}.{verb}")
        return current_client()

    def open(self, client: Client, args: tuple[Any, ...], kwargs: dict[str, Any], *, keep: bool = False) -> Inbox:
        """Start a call or a stream, whichever the function is."""
        definition = self.define()
        _timeline.mark("code collected")
        value, payload = self.encode(client, definition, args, kwargs)
        kind: RequestKind = "stream" if self.is_stream else "call"
        inbox = client.open_request(definition, kind, value, payload, method=self.method, keep=keep)
        _timeline.mark("call sent")
        return inbox

    def open_map(self, client: Client) -> Inbox:
        return client.open_request(self.define(), "map", Value(), method=self.method)

    def encode(
        self, client: Client, definition: Definition, args: tuple[Any, ...], kwargs: dict[str, Any]
    ) -> tuple[Value, Buffer]:
        """Raises UnpicklableArgument naming the argument, ValueTooLarge."""
        is_large = stands_in = False
        for argument in (*args, *kwargs.values()) if kwargs else args:
            stands_in = stands_in or type(argument) in _STANDING_FOR_A_VALUE
            is_large = is_large or is_large_piece(argument)
        if stands_in:
            args = tuple(_stand_in(argument) for argument in args)
            kwargs = {name: _stand_in(argument) for name, argument in kwargs.items()}
        try:
            return encode_value((args, kwargs), segments=client.segments, reach=definition.reach, is_large=is_large)
        except UnpicklableArgument as error:
            from deepserve._culprit import Arguments, explain

            cause = error.__cause__ or error
            raise UnpicklableArgument(explain(Arguments(self.target, args, kwargs), cause)) from cause


def _stand_in(argument: Any) -> Any:
    """A top-level Ref arrives as its value; so does the result of a call, which is awaited here."""
    if type(argument) is Ref:
        return ByReference(argument)
    if type(argument) is Call:
        return argument.get()
    return argument


async def settled(args: tuple[Any, ...], kwargs: dict[str, Any]) -> tuple[tuple[Any, ...], dict[str, Any]]:
    """The arguments with every top-level Call's result in its place, waited for without blocking the event loop."""
    if any(type(argument) is Call for argument in (*args, *kwargs.values())):
        args = tuple([await _settle(argument) for argument in args])
        kwargs = {name: await _settle(argument) for name, argument in kwargs.items()}
    return args, kwargs


async def _settle(argument: Any) -> Any:
    return await argument.get.aio() if type(argument) is Call else argument


_STANDING_FOR_A_VALUE = (Ref, Call)
