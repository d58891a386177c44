"""The folders a controller works in: private to the user, gone when it ends, cleaned up after a dead one."""

from __future__ import annotations

import contextlib
import os
import re
import stat
from typing import NamedTuple

from deepserve_controller.errors import UnsafeFolder
from deepserve_controller.service.processes import read_stat
from deepserve_controller.service.tokens import new_name

SHARED_MEMORY = "/dev/shm"
SOCKET = "controller.sock"
MAX_SOCKET_PATH = 107
"""The system's bound."""
OWNER_FILE = ".owner"
"""Holds `pid start-ticks`: a process id alone may have been given to another process since."""


class ControllerFolders(NamedTuple):
    runtime: str
    private: str
    segments: str

    @property
    def socket(self) -> str:
        return os.path.join(self.private, SOCKET)

    def remove(self) -> None:
        for folder in {self.private, self.segments}:
            _remove(folder)


def make_folders(runtime: str, shared_memory: str = SHARED_MEMORY) -> ControllerFolders:
    """Raises UnsafeFolder."""
    make_private(runtime)
    remove_leftovers(runtime, shared_memory)
    pid = os.getpid()
    private = os.path.join(runtime, f"ctl-{pid}-{new_name(4)}")
    if len(os.path.join(private, SOCKET)) > MAX_SOCKET_PATH:
        raise UnsafeFolder(f"{runtime} is too long a path for a unix socket: set XDG_RUNTIME_DIR to a shorter one")
    make_owned(private)
    os.mkdir(os.path.join(private, "bundles"), 0o700)
    segments = os.path.join(private, "segments")
    if os.path.isdir(shared_memory) and os.access(shared_memory, os.W_OK):
        segments = os.path.join(shared_memory, f"deepserve-{os.getuid()}-{pid}-{new_name(4)}")
    make_owned(segments)
    return ControllerFolders(runtime, private, segments)


def make_private(folder: str) -> None:
    """Creates `folder` for this user alone, or checks that it is so. Raises UnsafeFolder."""
    try:
        os.makedirs(os.path.dirname(folder) or ".", exist_ok=True)
        with contextlib.suppress(FileExistsError):
            os.mkdir(folder, 0o700)
        found = os.lstat(folder)
    except OSError as error:
        raise UnsafeFolder(f"{folder} cannot be used: {error.strerror}") from None
    if not stat.S_ISDIR(found.st_mode):
        raise UnsafeFolder(f"{folder} is not a folder (or is a link): remove it")
    if found.st_uid != os.getuid():
        raise UnsafeFolder(f"{folder} belongs to user {found.st_uid}")
    if stat.S_IMODE(found.st_mode) & 0o077:
        raise UnsafeFolder(f"{folder} is open to other users (mode {stat.S_IMODE(found.st_mode):o}): chmod 700 it")


def make_owned(folder: str) -> None:
    os.mkdir(folder, 0o700)
    own = read_stat(os.getpid())
    with open(os.path.join(folder, OWNER_FILE), "w") as file:
        file.write(f"{os.getpid()} {own.start_ticks if own else 0}")


def remove_leftovers(runtime: str, shared_memory: str = SHARED_MEMORY) -> list[str]:
    """Removes the folders of controllers that died without doing so; returns them."""
    removed = []
    places = ((runtime, r"ctl-(\d+)-\w+"), (shared_memory, rf"deepserve-{os.getuid()}-(\d+)-\w+"))
    for parent, pattern in places:
        with contextlib.suppress(OSError):
            for name in os.listdir(parent):
                match = re.fullmatch(pattern, name)
                folder = os.path.join(parent, name)
                if match and not _is_alive(folder, int(match[1])) and os.lstat(folder).st_uid == os.getuid():
                    _remove(folder)
                    removed.append(folder)
    return removed


def _is_alive(folder: str, pid: int) -> bool:
    """Whether the controller that made `folder` still runs."""
    running = read_stat(pid)
    if running is None or running.is_zombie:
        return False
    try:
        with open(os.path.join(folder, OWNER_FILE)) as file:
            return int(file.read().split()[1]) == running.start_ticks
    except (OSError, ValueError, IndexError):
        return True  # just being made


def _remove(folder: str) -> None:
    import shutil  # with its archive formats it takes longer than anything else here

    shutil.rmtree(folder, ignore_errors=True)
