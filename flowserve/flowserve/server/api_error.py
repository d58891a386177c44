"""ApiError: what a client gets instead of an answer, in OpenAI's shape and with its status."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass

import msgspec

from ..errors import (
    ChatTemplateError,
    EngineAsleepError,
    EngineBusyError,
    FlowServeError,
    InvalidGrammarError,
    InvalidPromptError,
    InvalidRequestError,
    InvalidSamplingParamsError,
    PromptTooLongError,
    TokenizerError,
)

_BAD_SCHEMA = re.compile("failed to compile JSON schema: (.*)")

JSON_TYPE = "application/json"


class ErrorDetails(msgspec.Struct):
    message: str
    type: str
    param: str | None = None
    code: str | None = None


class ErrorBody(msgspec.Struct):
    error: ErrorDetails


class ApiError(Exception):
    """`param`: the field of the request that is at fault.  `code`: a word for programs."""

    def __init__(
        self,
        status: int,
        message: str,
        *,
        param: str | None = None,
        code: str | None = None,
        headers: Mapping[str, str] | None = None,
    ) -> None:
        super().__init__(message)
        self.status = status
        self.message = message
        self.param = param
        self.code = code
        self.headers = dict(headers or {})

    def body(self) -> bytes:
        # Texts may quote what a client sent; halves of characters cannot be written as UTF-8.
        message = self.message.encode("utf-8", "replace").decode()
        return msgspec.json.encode(ErrorBody(ErrorDetails(message, self.kind, self.param, self.code)))

    @property
    def kind(self) -> str:
        return _type(self.status)


def invalid(message: str, param: str | None = None, code: str | None = None) -> ApiError:
    """The request is at fault."""
    return ApiError(400, message, param=param, code=code)


@dataclass(frozen=True, slots=True)
class RequestFields:
    """Where in a request its prompt, its grammar and its limit stand: `param` of errors about them."""

    prompt: str = "prompt"
    grammar: str | None = None
    max_tokens: str = "max_tokens"


def as_api_error(error: Exception, fields: RequestFields = RequestFields()) -> ApiError:
    """What the engine refused, or where it failed."""
    if isinstance(error, ApiError):
        return error
    if isinstance(error, PromptTooLongError):
        return invalid(str(error), fields.prompt, "context_length_exceeded")
    if isinstance(error, InvalidPromptError):
        return invalid(str(error), fields.prompt)
    if isinstance(error, InvalidGrammarError):
        return invalid(_words_of_tools(str(error)) if fields.grammar == "tools" else str(error), fields.grammar)
    if isinstance(error, ChatTemplateError):
        return invalid(str(error), "messages")
    if isinstance(error, InvalidSamplingParamsError):  # its text begins with the field
        name = str(error).split(maxsplit=1)[0]
        return invalid(str(error), fields.max_tokens if name == "max_tokens" else name)
    if isinstance(error, InvalidRequestError):
        return invalid(str(error))
    if isinstance(error, TokenizerError):  # a model without an end token cannot do structured outputs
        return invalid(str(error))
    if isinstance(error, EngineAsleepError):
        return ApiError(503, str(error), code="asleep")
    if isinstance(error, EngineBusyError):
        return ApiError(409, str(error), code="busy")
    if isinstance(error, RecursionError):
        return invalid("the request is nested too deeply")
    text = str(error) if isinstance(error, FlowServeError) else f"{type(error).__name__}: {error}"
    return ApiError(500, text)


def _words_of_tools(text: str) -> str:
    """Without the grammar that was made of the tools, which nobody but this server wrote."""
    found = _BAD_SCHEMA.search(text)
    return text if found is None else f"the parameters of a tool are no JSON schema that can be compiled: {found[1]}"


def _type(status: int) -> str:
    if status == 401:
        return "authentication_error"
    if status == 404:
        return "not_found_error"
    if status == 503:
        return "overloaded_error"
    return "invalid_request_error" if status < 500 else "server_error"
