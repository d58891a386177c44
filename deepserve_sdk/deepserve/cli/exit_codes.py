"""What a command's exit code means, and which error gets which."""

from __future__ import annotations

from deepserve import errors

OK = 0
USER_CODE_FAILED = 1
USAGE = 2
NOT_FOUND = 3
TIMEOUT = 4
UNREACHABLE = 5
INTERRUPTED = 130


class UsageError(errors.DeepServeError):
    """The command line, or the file it names, is not one that the command can use."""


class UserCodeFailed(errors.DeepServeError):
    """The user's own file raised while it was imported or run (see `__cause__`)."""


def exit_code_of(error: BaseException) -> int:
    """The exit code for `error`; anything that is not ours counts as the user's code."""
    match error:
        case UsageError() | errors.InvalidOption() | errors.SerializationError() | errors.Refused():
            return USAGE
        case errors.MissingPackage():
            return USAGE
        case errors.NotFound():
            return NOT_FOUND
        case errors.FunctionTimeout() | TimeoutError():
            return TIMEOUT
        case errors.ControllerUnreachable() | errors.ControllerLost() | errors.ProtocolError():
            return UNREACHABLE
        case KeyboardInterrupt():
            return INTERRUPTED
        case _:
            return USER_CODE_FAILED
