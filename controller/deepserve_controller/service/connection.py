"""PortConnection: one to the HTTP port, and what it answers where no route can yet."""

from __future__ import annotations

from typing import Any

import msgspec

from deepserve_controller.service.openai.fault import Fault
from deepserve_http.connection import Connection

BODY_PATIENCE_S = 30.0
"""For the next bytes of a body, of whoever reads it."""
CODES = {431: "too_large", 400: "invalid"}


class PortConnection(Connection):
    """Errors have the shape of their path's: that of the calls under `/api`, or OpenAI's, as where none is known."""

    @classmethod
    def refusal(cls, status: int, message: str, path: str) -> bytes:
        if path.startswith("/api/"):
            return msgspec.json.encode(error_of(CODES[status], message))
        return Fault(status, message).body()


def error_of(code: str, text: str) -> dict[str, Any]:
    """The body of an error of paths under `/api`."""
    return {"error": {"code": code, "text": text}}
