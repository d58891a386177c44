"""What messages are made of: their base, and what several of them say in the same words."""

from __future__ import annotations

from typing import Literal

import msgspec

RequestKind = Literal["call", "stream", "map"]
OutcomeKind = Literal[
    "ok",
    "error",  # the user's code raised; the payload is an encoded exception (deepserve._values)
    "timeout",  # the function's own time limit, or the deadline inherited from the caller
    "cancelled",
    "pod_lost",  # the pod died: exit code or signal in the detail
    "startup_failed",  # the executor could not be bound: the payload is an encoded exception
    "refused",  # bad input: unknown function, Python mismatch, too large, queue full
]


class Value(msgspec.Struct, frozen=True, omit_defaults=True):
    """Describes payload bytes; never inferred from the bytes themselves.

    format: `pickle` (protocol 5, laid out by deepserve._values), `msgpack`, `exception`, `none`.
    python: `major.minor` of the sender where code travels by value inside, else empty.
    segment: name of a shared-memory segment that holds the bytes; the frame's payload is then empty.
    refs: names of the stored values to which there are Refs inside.
    """

    format: Literal["pickle", "msgpack", "exception", "none"] = "none"
    size_bytes: int = 0
    python: str = ""
    segment: str = ""
    refs: tuple[str, ...] = ()


class Weights(msgspec.Struct, frozen=True, omit_defaults=True):
    """What is told of a model's weights when they are loaded.

    size_bytes: in memory, 0 unknown. read_ms: what reading them into memory took, 0 where nothing was read.
    is_arriving: the engine reads them while it serves, and tells in an EngineReport when all are there.
    """

    size_bytes: int = 0
    read_ms: float = 0.0
    is_arriving: bool = False


class PodMemory(msgspec.Struct, frozen=True, omit_defaults=True):
    """What a pod of a model takes of its host's memory beside weights that it shares, in bytes; all 0: unknown.

    kv_bytes: its KV cache; told by a template, what a pod would take that is told of no bound. least_kv_bytes: what a
    sequence of the model's whole context needs. private_bytes: process and working memory, and weights that are its
    own, at most; 0 unknown.
    """

    kv_bytes: int = 0
    least_kv_bytes: int = 0
    private_bytes: int = 0


Stopped = Literal[
    "",
    "before it began",
    "while it waited",  # for another attempt, or between two inputs of a map
    "cooperatively",  # its code heard of it and ended
    "pod draining",  # it went on after the grace: its pod is killed when the pod's other inputs are done
    "pod killed",
    "pod lost",  # the pod died while its code was being stopped
]
Clock = Literal["", "queue", "startup", "run", "idle", "caller"]
"""Which time ran out: waiting for a pod, loading the code, one attempt's run, a stream's silence, the caller's own."""


class Outcome(msgspec.Struct, frozen=True, omit_defaults=True):
    """`stopped` and `clock` say of what was cancelled or ran out of time how it was stopped, and whose clock it was.

    code: of what is refused, where its error has a class of its own: `depth`, `unknown` (a request), `context` (of a
    model: none of that id) or `context_expired`. Of a stream that lost its pod or its code after it had passed items
    on, and cannot be started again for that: `interrupted`.
    """

    kind: OutcomeKind
    detail: str = ""
    stopped: Stopped = ""
    clock: Clock = ""
    code: str = ""
    dependency: str = ""
    """The request whose result was to be an argument, where it is that one that ended so."""

    @property
    def is_ok(self) -> bool:
        return self.kind == "ok"


class Timings(msgspec.Struct, frozen=True, omit_defaults=True):
    """Where a task ran and what it took; milliseconds."""

    job_id: str = ""
    task_id: str = ""
    pod_id: str = ""
    attempts: int = 0
    queued_ms: float = 0.0
    """From arrival to the last assignment."""
    run_ms: float = 0.0
    """Inside the pod, as the pod measured it."""
    total_ms: float = 0.0
    user_retries: int = 0
    """Attempts that the function's own `retries` paid for."""
    pod_losses: int = 0
    """Attempts that ended with their pod: never counted as the user's."""


class Message(msgspec.Struct, frozen=True, omit_defaults=True, tag_field="type", tag=True):
    """Base of all messages; the tag is the class name."""
