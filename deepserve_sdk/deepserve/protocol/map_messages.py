"""Messages of maps: inputs and results travel many in a frame, so that a cheap one does not pay for a frame of its own.

Inputs of one frame have consecutive indices, and their encoded values are joined in the payload; `sizes` says where one
ends and the next begins. A value that needs a segment goes alone (`MapInput`, `InputFinished`, `ItemFinished`).

A *chunk* is a run of inputs that one pod gets as one task and runs one after the other. Inside a chunk an input is
named by its `position`: 0 for the first. Results come in the order of the positions.
"""

from __future__ import annotations

from deepserve.protocol.message_parts import Message, Outcome, Timings, Value

# --- clients -> controller --------------------------------------------------------------------------


class MapInputs(Message, frozen=True):
    """Inputs `first_index`, `first_index + 1`, ... of a map; their values are pickles.

    python: as in `Value`, of all of them.
    """

    request_id: str
    first_index: int
    sizes: list[int]
    python: str = ""


# --- controller -> clients --------------------------------------------------------------------------


class ItemsFinished(Message, frozen=True):
    """Inputs of a map that ended well, with consecutive indices. Of the timings `run_ms` is the mean."""

    request_id: str
    first_index: int
    sizes: list[int]
    timings: Timings
    python: str = ""


# --- controller -> pods -----------------------------------------------------------------------------


class AssignChunk(Message, frozen=True):
    """limit_s: of each input, from its own start; time_left_s: of all together. 0 without a limit."""

    task_id: str
    attempt: int
    request_id: str
    job_id: str
    first_index: int
    sizes: list[int]
    method: str = ""
    limit_s: float = 0.0
    time_left_s: float = 0.0
    python: str = ""


class RecallInputs(Message, frozen=True):
    """Give back what has not begun, and send what is finished: InputsReturned answers it."""

    task_id: str
    attempt: int


# --- pods -> controller -----------------------------------------------------------------------------


class InputsFinished(Message, frozen=True):
    """Inputs of a chunk that ended well, from `position` on. run_ms: of all of them together."""

    task_id: str
    attempt: int
    position: int
    sizes: list[int]
    run_ms: float
    python: str = ""


class InputFinished(Message, frozen=True):
    """One input of a chunk that did not end well, or whose result is in a segment."""

    task_id: str
    attempt: int
    position: int
    outcome: Outcome
    run_ms: float
    value: Value = Value()
    may_retry: bool = False


class InputsReturned(Message, frozen=True):
    """Inputs from `position` on have not begun and never will here.

    running_ms: for how long the input before them has been running, 0 where it has ended.
    """

    task_id: str
    attempt: int
    position: int
    running_ms: float = 0.0


MapMessage = (
    MapInputs | ItemsFinished | AssignChunk | RecallInputs | InputsFinished | InputFinished | InputsReturned
)  # fmt: skip
