"""Ref: a value stored once in shared memory and passed by reference."""

from __future__ import annotations

import threading
from typing import Any, Generic, TypeVar, cast

from deepserve._current_client import current_client, installed_client
from deepserve._ref_holds import Hold, note_carried
from deepserve._segments import SegmentGone, remove_segment
from deepserve._values import decode_value, store_value
from deepserve.errors import RefGone
from deepserve.protocol.messages import DeleteRef, StoreRef, Value

T = TypeVar("T")


class Ref(Generic[T]):
    """A stored value. As a top-level argument of a remote call it arrives as the value; nested, as a Ref.

    It lives as long as anybody has a Ref to it: a script, a pod, a call that runs or waits with it, a kept result;
    no longer than its `ttl`, or until `delete()`. Later uses raise RefGone. Every reader gets a copy of its own that
    it may write to, and which outlives the ref. A Ref that is written elsewhere (a file, a database) holds nothing.
    (Ray: `ObjectRef`.)
    """

    __slots__ = ("_hold", "_value")

    def __init__(self, value: Value, hold: Hold) -> None:
        self._value = value
        self._hold = hold

    def __repr__(self) -> str:
        return f"<deepserve.Ref {self._value.segment}: {self._value.size_bytes:,} bytes>"

    def __reduce__(self) -> Any:
        note_carried(self._hold)
        return _rebuild, (self._value.size_bytes, self._value.python, self._value.segment, tuple(self._value.refs))

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Ref) and other._value.segment == self._value.segment

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
        """The value. Raises RefGone after `delete()`, after its time to live, or where nobody held it meanwhile."""
        self.check()
        client = current_client()
        try:
            value = decode_value(self._value, b"", segments=client.controller.segments)
        except SegmentGone:
            raise self._gone() from None
        if self._value.refs:
            client.refs.announce(self._value.refs)
        return cast(T, value)

    def check(self) -> None:
        """Raises RefGone where this process knows that it is gone."""
        if self._hold.is_deleted:
            raise self._gone()

    def delete(self) -> None:
        """Free the memory; calls that are running with it keep their copy. Deleting twice is no error."""
        self._hold.is_deleted = True
        client = current_client()
        remove_segment(client.controller.segments(), self._value.segment)
        client.send(DeleteRef(self._value.segment))

    def _gone(self) -> RefGone:
        why = "deleted" if self._hold.is_deleted else "deleted, its time to live is over, or nobody held it any more"
        return RefGone(f"the stored value {self._value.segment} ({self._value.size_bytes:,} bytes) is gone: {why}")


class ByReference:
    """A Ref on its way as a top-level argument: unpickles as the value."""

    __slots__ = ("_ref",)

    def __init__(self, ref: Ref[Any]) -> None:
        ref.check()
        self._ref = ref

    def __reduce__(self) -> Any:
        return _resolve, (self._ref,)


def _rebuild(size_bytes: int, python: str, segment: str, refs: tuple[str, ...] = ()) -> Ref[Any]:
    client = installed_client()
    hold = client.refs.hold(segment, size_bytes) if client is not None else Hold(segment, size_bytes, None)
    return Ref(Value("pickle", size_bytes, python, segment, refs), hold)


def _resolve(ref: Ref[T]) -> T:
    return ref.get()


def put(value: T, *, ttl: float | None = None) -> Ref[T]:
    """Store `value` once, to pass it to many calls. Starts the controller where none runs.

    ttl: seconds after which it is deleted, whoever holds it then; None: it lives while it is held. Raises
    UnpicklableArgument, ValueTooLarge, and ValueError for a ttl that is none. (Ray: `ray.put`.)
    """
    if ttl is not None and not (isinstance(ttl, int | float) and 0 < ttl <= threading.TIMEOUT_MAX):
        raise ValueError(f"put(ttl={ttl!r}): give a number of seconds above 0")
    client = current_client()
    stored = store_value(value, client.controller.segments())
    hold = client.refs.hold(stored.segment, stored.size_bytes)
    client.refs.stored(hold)  # before it is said: a cancel may interrupt this at any point, and the hold goes then
    try:
        client.send(StoreRef(stored.segment, stored, float(ttl or 0.0)))
    except BaseException:
        remove_segment(client.controller.segments(), stored.segment)
        raise
    return Ref(stored, hold)
