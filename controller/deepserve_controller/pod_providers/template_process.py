"""Starts a template process. Light to import: the embedded controller does this before anything else."""

from __future__ import annotations

import importlib
import os
import socket
import sys
import traceback
from collections.abc import Callable
from typing import NamedTuple, NoReturn

from deepserve_controller.service.prctl import die_with_parent

TEMPLATE_MODULE = "deepserve_runtime.template"
POD_VARIABLE = "DEEPSERVE_POD_ID"
"""By it every process below a pod is found."""
MAX_POD_ID_CHARS = 64
MAX_FD = 4096


class TemplateProcess(NamedTuple):
    pid: int
    connection: socket.socket
    """This side of the control connection; its end of file ends the template."""


def template_command(environment: str, control_fd: int) -> list[str]:
    """-P: a file of the user's folder must not stand in for a standard module."""
    return [sys.executable, "-P", "-m", TEMPLATE_MODULE, "--environment", environment, "--control-fd", str(control_fd)]


def start_template(environment: str) -> TemplateProcess:
    """In a session of its own, without standard input, printing to standard error. Raises OSError."""
    # fork and exec by hand: this process has one thread, and importing subprocess costs more than the start.
    return _fork(lambda control_fd: _exec_template(template_command(environment, control_fd), control_fd))


def fork_template(environment: str) -> TemplateProcess:
    """As `start_template`, for a process that has only just begun: what it has imported by now a template needs too, so
    that the two share it. It must have been started with room for a pod's id in its environment (`POD_VARIABLE`).

    Raises OSError.
    """
    return _fork(lambda control_fd: _become_template(environment, control_fd))


def _fork(become: Callable[[int], NoReturn]) -> TemplateProcess:
    """become: in the child, with its end of the connection."""
    ours, theirs = socket.socketpair()
    try:
        pid = os.fork()
        if pid == 0:
            become(theirs.fileno())
    except OSError:
        ours.close()
        raise
    finally:
        theirs.close()
    ours.setblocking(False)
    return TemplateProcess(pid, ours)


def _exec_template(command: list[str], control_fd: int) -> NoReturn:
    try:
        _leave_controller(control_fd)
        os.set_inheritable(control_fd, True)
        # Pods write their id over this in their copy of the template's memory.
        os.execve(command[0], command, {**os.environ, POD_VARIABLE: "-" * MAX_POD_ID_CHARS})
    finally:
        os._exit(127)


def _become_template(environment: str, control_fd: int) -> NoReturn:
    """The controller knows the runtime by this module's name only, as it does where it starts an interpreter for it."""
    exit_code = 1
    try:
        _leave_controller(control_fd)
        exit_code = importlib.import_module(TEMPLATE_MODULE).run_template(environment, control_fd)
    except BaseException:
        traceback.print_exc()
    finally:
        os._exit(exit_code)


def _leave_controller(control_fd: int) -> None:
    os.setsid()
    die_with_parent()
    nothing = os.open(os.devnull, os.O_RDONLY)
    os.dup2(nothing, 0)
    os.dup2(2, 1)
    # Not the owner's connection, whose end of file must not wait for this process, nor what the script inherited.
    os.closerange(3, control_fd)
    os.closerange(control_fd + 1, MAX_FD)
