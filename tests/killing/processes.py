"""The processes of one world of the kill loop, as /proc shows them."""

from __future__ import annotations

import contextlib
import os
import socket
from collections.abc import Iterator
from pathlib import Path

LOAD_MODULE = "tests.killing.load"
MARK = "DEEPSERVE_KILL_LOOP"
"""Variable that all processes of a world inherit."""
POD_ID = b"DEEPSERVE_POD_ID="


class Process:
    """One process of the world, as /proc shows it."""

    def __init__(self, pid: int, role: str) -> None:
        self.pid = pid
        self.role = role

    def send(self, number: int) -> bool:
        with contextlib.suppress(ProcessLookupError):
            os.kill(self.pid, number)
            return True
        return False


def processes(mark: str) -> Iterator[Process]:
    """All that descends from a world: client, controller, template, function's template, pod, or other."""
    needle = f"{MARK}={mark}".encode()
    for folder in Path("/proc").iterdir():
        if folder.name.isdecimal():
            with contextlib.suppress(OSError):
                environment = (folder / "environ").read_bytes().split(b"\0")
                if needle not in environment:
                    continue
                command = (folder / "cmdline").read_bytes()
                if (folder / "stat").read_text().rpartition(")")[2].split()[0] not in "ZX":
                    yield Process(int(folder.name), role_of(command, environment))


def role_of(command: bytes, environment: list[bytes]) -> str:
    for variable in environment:
        # In an environment's template the place for the id is there, and empty.
        if variable.startswith(POD_ID) and (name := variable[len(POD_ID) :].strip(b" -")):
            return "function's template" if name.startswith(b"template-") else "pod"
    for word, role in ((b"deepserve_runtime", "template"), (b"deepserve_controller", "controller")):
        if word in command:
            return role
    return "client" if LOAD_MODULE.encode() in command else "other"


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


def is_answering(path: Path) -> bool:
    """The socket of a controller that was killed may still lie there."""
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as probe:
        with contextlib.suppress(OSError):
            probe.connect(str(path))
            return True
    return False
