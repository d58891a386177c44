"""ServerConnection: one to the server, and what it answers where no route can yet."""

from __future__ import annotations

from deepserve_http.connection import Connection

from .api_error import ApiError


class ServerConnection(Connection):
    """Errors are in OpenAI's shape, whatever the path."""

    head_timeout_s = 20.0
    body_timeout_s = 30.0

    @classmethod
    def refusal(cls, status: int, message: str, path: str) -> bytes:
        return ApiError(status, message).body()
