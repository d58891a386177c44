"""Messages about values that stay when their call is over, or that the sender shares no memory for."""

from __future__ import annotations

from deepserve.protocol.message_parts import Message, Value

# --- stored values: clients and pods -> controller ---------------------------------------------------


class StoreRef(Message, frozen=True):
    """A value was stored under this name, and its maker holds it once. ttl_s: 0 without a time to live."""

    name: str
    value: Value
    ttl_s: float = 0.0


class HoldRefs(Message, frozen=True):
    """The sender has Refs to these that something else brought: it holds each once more.

    Every StreamItem, ItemFinished and RequestFinished is itself a hold of each ref in its value; an AssignTask is none,
    for its request holds them.
    """

    names: list[str]


class ReleaseRefs(Message, frozen=True):
    """The sender has no Ref to these any more: that many holds of each are over."""

    counts: dict[str, int]


class DeleteRef(Message, frozen=True):
    """Nobody shall have it any more."""

    name: str


# --- clients on other hosts <-> controller -----------------------------------------------------------


class PutValue(Message, frozen=True):
    """The payload is a piece of a value that becomes a segment once all its `size_bytes` are here.

    Pieces come in order; `ValueStored` answers the last one, or the first that there is no room for.
    """

    segment: str
    size_bytes: int
    offset: int = 0


class ValueStored(Message, frozen=True):
    """`error`: why it was not, in words."""

    segment: str
    error: str = ""


class FetchValue(Message, frozen=True):
    """Answered by ValueContent with `size_bytes` of the segment from `offset` on; `unlink`: it is then removed."""

    fetch_id: int
    segment: str
    offset: int
    size_bytes: int
    unlink: bool = False


class ValueContent(Message, frozen=True):
    """`error`: why there is nothing, in words."""

    fetch_id: int
    offset: int
    error: str = ""


class DropValue(Message, frozen=True):
    """Nobody will read this segment."""

    segment: str


ValueMessage = (
    StoreRef | HoldRefs | ReleaseRefs | DeleteRef | PutValue | ValueStored | FetchValue | ValueContent | DropValue
)  # fmt: skip
