"""The command `deepserve`."""

from __future__ import annotations

import os
import sys
import traceback

from deepserve.cli.exit_codes import INTERRUPTED, OK, USAGE, UserCodeFailed, exit_code_of
from deepserve.cli.output import complain
from deepserve.errors import DeepServeError


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
    except UserCodeFailed as error:
        complain(str(error))
        if error.__cause__ is not None:
            print_from_user(error.__cause__)
        return exit_code_of(error)
    except DeepServeError as error:
        complain(f"{type(error).__name__}: {error}")
        return exit_code_of(error)
    except TimeoutError as error:
        complain(f"timed out: {error}")
        return exit_code_of(error)
    except typer.exceptions.TyperException as error:
        show = getattr(error, "show", None)  # a usage error knows how to print itself
        show() if show is not None else complain(str(error))
        return USAGE
    except BaseException as error:
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
