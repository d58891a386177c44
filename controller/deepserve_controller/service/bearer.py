"""The key of the HTTP port, as a request brings it."""

from __future__ import annotations

import hmac

from starlette.requests import HTTPConnection

HOW_TO_BRING_THE_KEY = "send the key of the state folder as `Authorization: Bearer <key>`"


class Bearer:
    """In the header only: what stands in an address is logged on the way and kept in histories."""

    def __init__(self, key: str) -> None:
        self._key = key.encode()

    def is_brought_by(self, request: HTTPConnection) -> bool:
        scheme, _, given = request.headers.get("authorization", "").partition(" ")
        is_right = hmac.compare_digest(given.strip().encode("utf-8", "surrogateescape"), self._key)
        return scheme.lower() == "bearer" and is_right
