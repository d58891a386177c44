"""What a remote verb needs to know of its function or method, and how its arguments travel."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from deepserve import _timeline
from deepserve._call import Call
from deepserve._client import Client
from deepserve._current_client import current_client
from deepserve._definition import Definition
from deepserve._dependencies import Dependencies
from deepserve._event_loop import refuse_on_loop
from deepserve._inbox import Inbox
from deepserve._ref import ByReference, Ref
from deepserve._values import encode_value, is_large_piece, may_need_segment
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

    async def client_on_loop(self, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Client:
        """The client for a verb of an event loop. A controller that is still to start has yet to tell the folder that
        large arguments go to; it hears of the function meanwhile. Raises UnguardedCallError, ControllerUnreachable.
        """
        client = current_client()
        if client.controller.said is None and any(map(may_need_segment, (*args, *kwargs.values()))):
            client.define(self.define())
            await client.controller.wait_on_loop()
        return client

    def open(
        self,
        client: Client,
        args: tuple[Any, ...],
        kwargs: dict[str, Any],
        *,
        keep: bool = False,
        is_awaited: bool = False,
    ) -> Inbox:
        """Start a call or a stream, whichever the function is."""
        definition = self.define()
        _timeline.mark("code collected")
        value, payload, depends_on = self.encode(client, definition, args, kwargs)
        kind: RequestKind = "stream" if self.is_stream else "call"
        inbox = client.open_request(
            definition, kind, value, payload, method=self.method, keep=keep, depends_on=depends_on,
            is_awaited=is_awaited,
        )  # fmt: skip
        _timeline.mark("call sent")
        return inbox

    def open_map(self, client: Client, *, keep: bool = False) -> Inbox:
        return client.open_request(self.define(), "map", Value(), method=self.method, keep=keep)

    def encode(
        self, client: Client, definition: Definition, args: tuple[Any, ...], kwargs: dict[str, Any]
    ) -> tuple[Value, Buffer, tuple[str, ...]]:
        """The arguments as they travel, and the calls whose results are among them.

        Raises UnpicklableArgument naming the argument, ValueTooLarge.
        """
        depends_on: tuple[str, ...] = ()
        is_large = stands_in = False
        for argument in (*args, *kwargs.values()) if kwargs else args:
            stands_in = stands_in or type(argument) in _STANDING_FOR_A_VALUE
            is_large = is_large or is_large_piece(argument)
        if stands_in:
            dependencies = Dependencies()
            args = tuple(_stand_in(argument, dependencies) for argument in args)
            kwargs = {name: _stand_in(argument, dependencies) for name, argument in kwargs.items()}
            depends_on = dependencies.ids
        try:
            value, payload = encode_value(
                (args, kwargs), segments=client.controller.segments, reach=definition.reach, is_large=is_large
            )
            return value, payload, depends_on
        except UnpicklableArgument as error:
            from deepserve._culprit import Arguments, explain

            cause = error.__cause__ or error
            raise UnpicklableArgument(explain(Arguments(self.target, args, kwargs), cause)) from cause


def _stand_in(argument: Any, dependencies: Dependencies) -> Any:
    """A top-level Ref arrives as its value, and a Call as its result, for which the controller waits."""
    if type(argument) is Ref:
        return ByReference(argument)
    if type(argument) is Call:
        return dependencies.stand_in(argument)
    return argument


_STANDING_FOR_A_VALUE = (Ref, Call)
