"""Ref: a value stored once in shared memory and passed by reference."""

from __future__ import annotations

import threading
from typing import Any, Generic, TypeVar, cast

from deepserve._client import current_client
from deepserve._segments import remove_segment
from deepserve._values import decode_value, store_value
from deepserve.protocol.messages import Value

T = TypeVar("T")


class Ref(Generic[T]):
    """A stored value. As a top-level argument of a remote call it arrives as the value; nested, as a Ref.

    It lives until `delete()`, or until the script that made it and the calls that it spawned have ended; one made
    inside a pod, until the controller ends. Every reader gets a copy of its own that it may write to.
    (Ray: `ObjectRef`, but for the explicit end.)
    """

    __slots__ = ("_value",)

    def __init__(self, value: Value) -> None:
        self._value = value

    def __repr__(self) -> str:
        return f"<deepserve.Ref {self._value.segment}: {self._value.size_bytes:,} bytes>"

    def __reduce__(self) -> Any:
        return _rebuild, (self._value.size_bytes, self._value.python, self._value.segment)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Ref) and other._value == self._value

    def __hash__(self) -> int:
        return hash(self._value.segment)

    @property
    def size_bytes(self) -> int:
        return self._value.size_bytes

    @property
    def arg(self) -> T:
        """This very Ref, typed as its value: `total.remote(ref.arg)` satisfies a type checker."""
        return cast(T, self)

    def get(self) -> T:
        """The value. Raises SerializationError after `delete()`."""
        return cast(T, decode_value(self._value, b"", segments=current_client().segments))

    def delete(self) -> None:
        """Free the memory; calls that are running with it keep their copy. Deleting twice is no error."""
        remove_segment(current_client().segments(), self._value.segment)


class ByReference:
    """A Ref on its way as a top-level argument: unpickles as the value."""

    __slots__ = ("_ref",)

    def __init__(self, ref: Ref[Any]) -> None:
        self._ref = ref

    def __reduce__(self) -> Any:
        return _resolve, (self._ref,)


def _rebuild(size_bytes: int, python: str, segment: str) -> Ref[Any]:
    return Ref(Value("pickle", size_bytes, python, segment))


def _resolve(ref: Ref[T]) -> T:
    return ref.get()


def put(value: T, *, ttl: float | None = None) -> Ref[T]:
    """Store `value` once, to pass it to many calls. Starts the controller where none runs.

    ttl: seconds until it is deleted, as long as this process lives; None: until `delete()`. Raises
    UnpicklableArgument, ValueTooLarge, and ValueError for a ttl that is none. (Ray: `ray.put`.)
    """
    if ttl is not None and not (isinstance(ttl, int | float) and 0 < ttl <= threading.TIMEOUT_MAX):
        raise ValueError(f"put(ttl={ttl!r}): give a number of seconds above 0")
    client = current_client()
    ref: Ref[T] = Ref(store_value(value, client.segments(), client.client_id))
    if ttl is not None:
        expiry = threading.Timer(ttl, ref.delete)
        expiry.daemon = True
        expiry.start()
    return ref
