"""Questions to the controller that wait for their answers."""

from __future__ import annotations

import threading
from collections.abc import Callable
from itertools import count
from typing import Any

from deepserve.errors import ContextExpiredError, DeepServeError, NotFound, Refused, UnknownContextError
from deepserve.protocol.messages import Answer, Query

ERRORS: dict[str, type[DeepServeError]] = {
    "not_found": NotFound,
    "context": UnknownContextError,
    "context_expired": ContextExpiredError,
}
"""By the answer's code; others are Refused."""


class Questions:
    """Thread-safe. `send` writes one frame."""

    def __init__(self, send: Callable[[Query], None]) -> None:
        self._send = send
        self._numbers = count(1)
        self._open: dict[int, tuple[threading.Event, list[Answer]]] = {}

    def ask(self, name: str, body: dict[str, Any], timeout_s: float) -> dict[str, Any] | None:
        """The answer; None where none came in time, or the link ended. Raises NotFound, Refused."""
        arrived, answers = threading.Event(), list[Answer]()
        query_id = next(self._numbers)
        self._open[query_id] = (arrived, answers)
        try:
            self._send(Query(query_id, name, body))
            arrived.wait(timeout_s)
        finally:
            del self._open[query_id]
        if not answers:
            return None
        if answers[0].error:
            raise ERRORS.get(answers[0].error, Refused)(answers[0].text)
        return answers[0].body

    def take(self, answer: Answer) -> None:
        arrived, answers = self._open.get(answer.query_id, (None, []))
        answers.append(answer)
        if arrived is not None:
            arrived.set()

    def give_up(self) -> None:
        """No answer will come any more."""
        for arrived, _ in list(self._open.values()):
            arrived.set()
