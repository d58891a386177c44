"""The command `deepserve`."""

from __future__ import annotations

import os
import sys
import traceback

from deepserve.cli.exit_codes import INTERRUPTED, OK, USAGE, UserCodeFailed, exit_code_of
from deepserve.cli.output import complain, print_json
from deepserve.errors import DeepServeError, RemoteError


def main() -> None:
    """Entry point of the console script: runs one command and exits with its code."""
    sys.exit(run_command_line(sys.argv[1:]))


def run_command_line(arguments: list[str]) -> int:
    """Run one command and return its exit code (api page, section 6). Never raises."""
    import typer

    from deepserve.cli.commands import command_group

    try:
        outcome = command_group().main(args=arguments, prog_name="deepserve", standalone_mode=False)
        return outcome if isinstance(outcome, int) else OK
    except typer.Abort:
        complain("interrupted")
        return INTERRUPTED
    except BrokenPipeError:
        # The reader of stdout left (`| head`): silence the interpreter's own last flush.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return OK
    except SystemExit as error:
        return error.code if isinstance(error.code, int) else OK if error.code is None else 1
    except Exception as error:
        if "--json" in arguments and not isinstance(error, typer.exceptions.TyperException):
            print_json({"error": type(error).__name__, "text": str(error)})
            return exit_code_of(error)
        return explain(error)
    except BaseException as error:
        print_from_user(error)
        return exit_code_of(error)


def explain(error: Exception) -> int:
    """Says on stderr what went wrong, as shortly as its kind allows; returns the exit code."""
    import typer

    if isinstance(error, typer.exceptions.TyperException):
        show = getattr(error, "show", None)  # a usage error knows how to print itself
        show() if show is not None else complain(str(error))
        return USAGE
    if isinstance(error, UserCodeFailed):
        complain(str(error))
        if error.__cause__ is not None:
            print_from_user(error.__cause__)
    elif isinstance(error, RemoteError) and error.remote_traceback:
        complain(error.remote_traceback.rstrip())
    elif isinstance(error, DeepServeError):
        complain(f"{type(error).__name__}: {error}")
    elif isinstance(error, TimeoutError):
        complain(f"timed out: {error}")
    else:
        print_from_user(error)
    return exit_code_of(error)


def print_from_user(error: BaseException) -> None:
    """The traceback, without the frames of this command above those of the user's code, where there are such."""
    frame = error.__traceback__
    while frame is not None and is_own_file(frame.tb_frame.f_code.co_filename):
        frame = frame.tb_next
    traceback.print_exception(error.with_traceback(frame or error.__traceback__))


def is_own_file(name: str) -> bool:
    """Of this package, of the library that parses commands, or of the import system."""
    return name.startswith((os.path.dirname(os.path.dirname(__file__)) + os.sep, "<frozen ")) or "/typer/" in name
