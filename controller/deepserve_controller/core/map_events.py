"""Events of maps: inputs that arrive, and what becomes of them in the chunks that pods run. All to the job executor."""

from __future__ import annotations

from deepserve.protocol.messages import Outcome
from deepserve_controller.core.event_parts import Event, Payload


class MapInputArrived(Event, frozen=True):
    request_id: str
    index: int
    payload: Payload
    depends_on: tuple[str, ...] = ()
    broken: Outcome | None = None


class MapInputsArrived(Event, frozen=True):
    """Many at once, with consecutive indices: their pickles lie one behind the other in `data`."""

    request_id: str
    first_index: int
    sizes: list[int]
    data: bytes
    python: str = ""


class MapInputsEnded(Event, frozen=True):
    request_id: str
    count: int


class InputsFinished(Event, frozen=True):
    """Inputs of a chunk, from `position` on, that ended well; `data` holds their results one behind the other."""

    task_id: str
    attempt: int
    position: int
    sizes: list[int]
    data: bytes
    run_ms: float
    python: str = ""


class InputFinished(Event, frozen=True):
    """One input of a chunk: it failed, or its result is large."""

    task_id: str
    attempt: int
    position: int
    outcome: Outcome
    run_ms: float
    payload: Payload = Payload()
    may_retry: bool = False


class InputsReturned(Event, frozen=True):
    """Inputs of a chunk from `position` on had not begun, and will not. `running_s`: see the message."""

    task_id: str
    attempt: int
    position: int
    running_s: float = 0.0


class InputsBegun(Event, frozen=True):
    """As the pod's page says, whether or not the pod still answers: `count` inputs of a chunk have begun."""

    task_id: str
    attempt: int
    count: int
