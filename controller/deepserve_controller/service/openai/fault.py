"""Fault: what a client of the OpenAI API gets instead of an answer, in OpenAI's shape and with its status."""

from __future__ import annotations

from collections.abc import Mapping

import msgspec

TYPES = {401: "authentication_error", 403: "permission_error", 404: "not_found_error", 429: "rate_limit_error"}


class Fault(Exception):
    """`param`: the field of the request that is at fault.  `code`: a word for programs.

    written: the body, where a pod has written it already.
    """

    def __init__(
        self,
        status: int,
        message: str,
        *,
        code: str | None = None,
        param: str | None = None,
        headers: Mapping[str, str] | None = None,
        written: bytes = b"",
    ) -> None:
        super().__init__(message)
        self.status, self.message, self.code, self.param = status, message, code, param
        self.headers = dict(headers or {})
        self._written = written

    def body(self) -> bytes:
        kind = TYPES.get(self.status, "invalid_request_error" if self.status < 500 else "server_error")
        kind = "overloaded_error" if self.status == 503 else kind
        message = self.message.encode("utf-8", "replace").decode()
        details = {"message": message, "type": kind, "param": self.param, "code": self.code}
        return self._written or msgspec.json.encode({"error": details})

    def event(self) -> bytes:
        """For a stream that has begun: the status is out, the fault comes as its last event but one."""
        return b"data: " + self.body() + b"\n\ndata: [DONE]\n\n"

    def typed_event(self, number: int) -> bytes:
        """The same for a stream of /v1/responses, whose events have types and numbers. `error` beside OpenAI's fields:
        what its clients look for to raise."""
        error = msgspec.json.decode(self.body())["error"]
        shown = {name: error.get(name) for name in ("message", "code", "param")}
        written = msgspec.json.encode({"type": "error", "sequence_number": number, **shown, "error": error})
        return b"event: error\ndata: " + written + b"\n\n"


def invalid(message: str, param: str | None = None) -> Fault:
    """The request is at fault."""
    return Fault(400, message, param=param)
