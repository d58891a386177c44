"""What completions and chats have in common: prompts for the engine, and the answer as one body or as events.

Free of any event loop: `flowserve serve` drives answers from one, and an engine inside another process as it steps.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

from .api_error import ApiError, RequestFields
from .outbox import Piece
from .prompts import Prompt, SequenceRequest

Pieces = Sequence[tuple[int, Piece]]
"""What came of some completions, counted through: those of the first prompt, those of the second, and so on."""


class Answer(Protocol):
    """One request of a kind. `id`: what the client can quote."""

    is_stream: bool
    fields: RequestFields

    @property
    def id(self) -> str: ...

    @property
    def place(self) -> int:
        """What of its events does not follow from the tokens: how many there were, where they are numbered."""
        ...

    def identify(self, seed: str, created: int, place: int = 0) -> None:
        """Goes by ids of this seed (24 hexadecimal digits) and this time (seconds since 1970) from now on: an answer
        that was begun elsewhere, and came to this place."""
        ...

    def prompts(self) -> list[Prompt]:
        """Raises ApiError or a FlowServeError of the request's fault."""
        ...

    def sequences(self, prompts: Sequence[Prompt]) -> list[SequenceRequest]:
        """What to ask the engine for: of `prompts`, all with their token ids. Raises as `prompts`."""
        ...

    def keep(self, pieces: Pieces) -> None:
        """For the whole body."""
        ...

    def body(self) -> bytes:
        """The whole answer as JSON. Raises ApiError."""
        ...

    def first_events(self) -> bytes:
        """Server-sent events from before there are any tokens; may be empty."""
        ...

    def events(self, pieces: Pieces) -> bytes:
        """Of what came; may be empty. Raises ApiError."""
        ...

    def skip(self, pieces: Pieces) -> None:
        """Events of these have been told elsewhere."""
        ...

    def last_events(self) -> bytes:
        """After all completions have ended, with the last word where its API has one."""
        ...

    def error_events(self, error: ApiError) -> bytes:
        """For a stream that has begun: the status is out, the error comes as its last word."""
        ...
